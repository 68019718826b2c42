"""What agrees at first sight: the great mass of a day, put together by ids alone, in parts that several workers can share.

A charge or refund agrees if the provider booked it once, on the day, and our books know it by its id, settled, with the same
amount and currency, and the fee that was posted for it. All that a look at it would make is a match by id, so it is kept for that (`matches.store`), counted,
and not looked at again. Everything else of the day is left to the other modules, which say how it differs.

What somebody has had to do with stands aside, and is looked at whole: an item that is not settled, a link, a fuzzy match.

Works in the caller's transaction on temporary tables, which end with it: `recon_theirs`, `recon_agreed`, `recon_aside`, `recon_off`, and the `recon_item` of
`pairs`, which gets what is left. A part is the objects whose ids lie between two cuts, on both sides: no part needs another, and each
writes its matches into a place of its own in their index.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from django.db import connection

from payments.selectors import CHARGES_VIEW, CLEARING_CORRECTIONS_VIEW, CLEARING_LINES_VIEW, REFUNDS_VIEW
from reconciliation.matching.days import Parameters, run

Look = Callable[[Parameters], None]  # looks at the whole day, be it in parts

_VIEWS: Final[Mapping[str, str]] = {"charge": CHARGES_VIEW, "refund": REFUNDS_VIEW}

_TABLES = """
DROP TABLE IF EXISTS pg_temp.recon_theirs, pg_temp.recon_agreed, pg_temp.recon_aside, pg_temp.recon_off, pg_temp.recon_sum;
CREATE TEMPORARY TABLE recon_theirs (
    kind text, source text, id text, currency text, amount_minor bigint, fee_minor bigint, at timestamptz, settled boolean
) ON COMMIT DROP;
CREATE TEMPORARY TABLE recon_agreed (
    kind text, source text, id text, currency text, theirs_day_minor bigint, fee_minor bigint, theirs_at timestamptz,
    ours_id uuid, ours_at timestamptz, ours_in_day boolean
) ON COMMIT DROP;
CREATE TEMPORARY TABLE recon_aside (kind text, source text) ON COMMIT DROP;
CREATE TEMPORARY TABLE recon_off (
    kind text, source text, currency text, theirs_day_minor bigint, has_match boolean
) ON COMMIT DROP;
CREATE TEMPORARY TABLE recon_sum (
    currency text, theirs_rows bigint, theirs_minor bigint, ours_rows bigint, ours_minor bigint
) ON COMMIT DROP;
"""

# Of what a person or a fuzzy rule has put together, each half that the day holds, however far away the other one stands: where the
# provider's books hold after all what ours name, the two are taken apart before it is matched anew (`match_one_of_ours`).
# What is stored of these and of the last, the run itself changes: it explains its statement by what it sees of them.
_ASIDE = """
INSERT INTO recon_aside
SELECT object_kind, source FROM reconciliation_discrepancy WHERE state = ANY(%(unresolved)s)
UNION
SELECT object_kind, source FROM reconciliation_discrepancy WHERE closed_as = 'fixed' AND verified_at IS NULL
UNION
SELECT l.object_kind, half.source FROM reconciliation_link l
CROSS JOIN LATERAL (VALUES (l.source), (l.ours_source)) AS half (source) WHERE l.ended_at IS NULL
UNION
SELECT t.kind, t.source FROM recon_theirs t JOIN reconciliation_match m ON m.object = t.kind || ':' || t.source
WHERE m.ours_source <> ''
UNION
SELECT t.kind, t.source FROM recon_theirs t
JOIN reconciliation_match m ON m.ours_source = t.source AND split_part(m.object, ':', 1) = t.kind
WHERE m.ours_source <> ''
UNION
SELECT split_part(object, ':', 1), substr(object, strpos(object, ':') + 1) FROM reconciliation_match
WHERE tolerance_minor IS NOT NULL AND theirs_on BETWEEN %(near_first)s AND %(near_last)s
"""


_IN_DAY = "m.booked AND coalesce(m.booked_at >= %(since)s AND m.booked_at < %(until)s, false)"


def _in_part(column: str) -> str:
    """By bytes, as the database sorts (foundation.checks): so an index may find a part."""
    return f"(%(cut)s::text IS NULL OR {column} >= %(cut)s) AND (%(next_cut)s::text IS NULL OR {column} < %(next_cut)s)"


# Read once, and used for all that follows: a part may pass by the whole day.
_THEIRS = f"""
INSERT INTO recon_theirs
SELECT CASE WHEN t.reporting_category = ANY(%(charge)s) THEN 'charge' ELSE 'refund' END, t.source, t.id, t.currency, t.amount_minor,
       t.fee_minor, t.created_at, t.amount_minor <> 0 AND t.source_status IN ('', 'succeeded')
FROM reconciliation_providertransaction t
WHERE t.created_at >= %(first)s AND t.created_at < %(until)s AND t.withdrawn_at IS NULL
  AND t.reporting_category = ANY(%(compared)s) AND {_in_part("t.source")}
"""  # noqa: S608  constants


def _agreed(kind: str) -> str:
    """A row of the provider's and a movement of ours, which are unique by their ids."""
    sign = "" if kind == "charge" else "-"
    return f"""
    INSERT INTO recon_agreed
    SELECT '{kind}', t.source, t.id, t.currency, t.amount_minor, t.fee_minor, t.at, m.id, coalesce(m.booked_at, m.occurred_at),
           {_IN_DAY}
    FROM recon_theirs t
    JOIN {_VIEWS[kind]} m ON m.source = t.source AND m.currency = t.currency AND m.amount_minor = {sign}t.amount_minor
    WHERE t.kind = '{kind}' AND t.settled AND m.status = 'succeeded' AND {_in_part("m.source")}
    """  # noqa: S608  constants


_AGREED = {kind: _agreed(kind) for kind in _VIEWS}

# What is taken out again, in statements of their own: of an anti-join, PostgreSQL would guess that next to nothing is left, and
# look up our movements one by one.
_SEVERAL_ROWS = {
    kind: f"""
    DELETE FROM recon_agreed a USING reconciliation_providertransaction o
    WHERE a.kind = '{kind}' AND o.source = a.source AND o.id <> a.id AND o.withdrawn_at IS NULL
      AND o.reporting_category = ANY(%({kind})s) AND {_in_part("o.source")}
    """  # noqa: S608  constants
    for kind in _VIEWS
}
_STANDS_ASIDE = "DELETE FROM recon_agreed a USING recon_aside s WHERE s.kind = a.kind AND s.source = a.source"
# What differs from the fee that was posted for it; what was never posted has nothing to differ from. The same number in another
# currency is not that fee. What was corrected is added up elsewhere.
_FEES_OFF = f"""
INSERT INTO recon_off
WITH theirs AS NOT MATERIALIZED (
    SELECT CASE WHEN t.reporting_category = ANY(%(charge)s) THEN 'charge' ELSE 'refund' END AS kind, t.source, t.id, t.currency,
           t.amount_minor, t.fee_minor
    FROM reconciliation_providertransaction t
    WHERE t.created_at >= %(first)s AND t.created_at < %(until)s AND t.withdrawn_at IS NULL
      AND t.reporting_category = ANY(%(compared)s)
), off AS (
    SELECT t.kind, t.source, t.currency, t.amount_minor FROM theirs t JOIN {CLEARING_LINES_VIEW} l ON l.key = 'fee:' || t.id
    WHERE l.amount_minor <> -t.fee_minor OR l.currency <> t.currency
    UNION
    SELECT t.kind, t.source, t.currency, t.amount_minor FROM {CLEARING_CORRECTIONS_VIEW} l JOIN theirs t ON t.id = substr(l.key, 5)
    WHERE l.key LIKE 'fee:%%'
)
SELECT o.*, NOT EXISTS (SELECT FROM recon_agreed a WHERE a.kind = o.kind AND a.source = o.source) FROM off o
WHERE NOT EXISTS (SELECT FROM recon_item i WHERE i.kind = o.kind AND i.source = o.source)
"""  # noqa: S608
_TAKE_OFF = "DELETE FROM recon_agreed a USING recon_off o WHERE o.kind = a.kind AND o.source = a.source"
_LOOK_AT_OFF = "INSERT INTO recon_item SELECT kind, source FROM recon_off"
_SUMS_OFF = f"""
SELECT o.currency, -count(*), -sum(o.theirs_day_minor)::bigint, -count(*) FILTER (WHERE m.in_day),
       -coalesce(sum(o.theirs_day_minor) FILTER (WHERE m.in_day), 0)::bigint
FROM recon_off o JOIN (
    {" UNION ALL ".join(f"SELECT '{kind}' AS kind, m.source, {_IN_DAY} AS in_day FROM {view} m" for kind, view in _VIEWS.items())}
) m ON m.kind = o.kind AND m.source = o.source
WHERE o.has_match GROUP BY o.currency
"""  # noqa: S608


def _left_of_ours(kind: str) -> str:
    return f"""
    SELECT '{kind}', m.source FROM {_VIEWS[kind]} m
    WHERE m.booked AND m.source IS NOT NULL AND m.booked_at >= %(first)s AND m.booked_at < %(until)s AND {_in_part("m.source")}
      AND NOT EXISTS (SELECT FROM recon_agreed a WHERE a.kind = '{kind}' AND a.source = m.source)
    """  # noqa: S608


_LEFT = """
INSERT INTO recon_item
SELECT t.kind, t.source FROM recon_theirs t
WHERE NOT EXISTS (SELECT FROM recon_agreed a WHERE a.kind = t.kind AND a.source = t.source)
UNION
""" + " UNION ".join(_left_of_ours(kind) for kind in _VIEWS)

_SUMS = """
SELECT currency, count(*), sum(theirs_day_minor)::bigint, count(*) FILTER (WHERE ours_in_day),
       coalesce(sum(theirs_day_minor) FILTER (WHERE ours_in_day), 0)::bigint
FROM recon_agreed GROUP BY currency ORDER BY currency
"""

_OF_DAY = """
FROM reconciliation_providertransaction
WHERE created_at >= %(first)s AND created_at < %(until)s AND withdrawn_at IS NULL AND reporting_category = ANY(%(compared)s)
"""
# Of a sample: how equal the parts are is a matter of time alone.
_CUTS = f"""
SELECT percentile_disc(ARRAY(SELECT part::float8 / %(of)s FROM generate_series(1, %(of)s - 1) part ORDER BY part))
    WITHIN GROUP (ORDER BY source) {_OF_DAY} AND hashtext(id) & %(mask)s = 0
"""  # noqa: S608  constants
_SAMPLED = 2048  # rows


@dataclass(frozen=True, slots=True)
class Sum:
    """What agrees, of a currency: rows, and their amounts with the provider's sign. Of ours: what our books have on the day."""

    currency: str
    theirs_rows: int
    theirs_minor: int
    ours_rows: int
    ours_minor: int


def start() -> None:
    """Make the tables, empty. Belongs inside a transaction, and ends with it."""
    run(_TABLES)


def clear() -> None:
    """Forget an earlier look."""
    for table in ("recon_agreed", "recon_off", "recon_sum"):  # `look_at` empties the others
        run(f"DELETE FROM {table}")  # noqa: S608  constants


def look_at_all(parameters: Parameters) -> None:
    """The whole day as one part."""
    look_at(parameters, part=0, cuts=[])


def look_at(parameters: Parameters, *, part: int, cuts: Sequence[str]) -> None:
    """Add what agrees of a part to `recon_agreed`, and what is left of it to `recon_item`. The first part ends before the first
    cut, the next one begins with it (`cuts`)."""
    edges = [None, *cuts, None]
    parameters = parameters | {"cut": edges[part], "next_cut": edges[part + 1]}
    run("DELETE FROM recon_aside")
    run("DELETE FROM recon_theirs")
    run(_THEIRS, parameters)
    run("ANALYZE recon_theirs")
    run(_ASIDE, parameters)
    run("ANALYZE recon_aside")
    for statement in _AGREED.values():
        run(statement, parameters)
    run("ANALYZE recon_agreed")
    for statement in _SEVERAL_ROWS.values():
        run(statement, parameters)
    run(_STANDS_ASIDE)
    run(_LEFT, parameters)


def rows_of_day(parameters: Parameters) -> int:
    """How many rows of the provider's there are to look at."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) {_OF_DAY}", parameters)
        return int(cursor.fetchone()[0])


def where_to_cut(parameters: Parameters, *, rows: int, of: int) -> list[str]:
    """The ids that cut so many rows into about equal parts, by rising bytes; of no rows: none."""
    mask = (1 << max(0, (rows // _SAMPLED).bit_length() - 1)) - 1
    with connection.cursor() as cursor:
        cursor.execute(_CUTS, parameters | {"of": of, "mask": mask})
        return cursor.fetchone()[0] or []


def sums() -> list[Sum]:
    """Of all that was looked at here."""
    with connection.cursor() as cursor:
        cursor.execute(_SUMS)
        return [Sum(*row) for row in cursor.fetchall()]


def settle() -> None:
    """Add up what agreed so far, and make room for another part. Its matches are stored (`matches.store_agreed`)."""
    note_sums(sums())
    run("TRUNCATE recon_agreed, recon_theirs")


def take_off_fees(parameters: Parameters) -> None:
    """Leave to the other modules what agreed but for its fee. Once all parts were looked at: the ledger is passed by once, not for
    each part. What agrees is added up here.

    Where the part that it was in has stored its match (`recon_off.has_match`), that stays: it is the same.
    """
    run(_FEES_OFF, parameters)
    run("ANALYZE recon_off")
    run(_TAKE_OFF)
    run(_LOOK_AT_OFF)
    note_sums(sums())
    with connection.cursor() as cursor:
        cursor.execute(_SUMS_OFF, parameters)
        note_sums([Sum(*row) for row in cursor.fetchall()])


def note_sums(found: list[Sum]) -> None:
    """Note sums for `matching.day_totals`, which adds them up: of what was looked at here, and of what helpers looked at."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO recon_sum VALUES (%s, %s, %s, %s, %s)",
            [(one.currency, one.theirs_rows, one.theirs_minor, one.ours_rows, one.ours_minor) for one in found],
        )
