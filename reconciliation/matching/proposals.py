"""What is left on both sides after matching by ids: put together where it fits once, either way; else proposed to a person.

Works on `recon_pair`, in the caller's transaction, on temporary tables of its own:

1. `recon_left`: charges and refunds that stand on one side alone;
2. `recon_edge`: what belongs together by metadata: the provider's names our payment or its order; a refund is of the same
   payment (and put together with ours only where its metadata say so); a charge of the same intent is proposed;
3. `recon_fuzzy`: what is put together. By metadata, where amount, currency and date agree as well. By amount and date, where
   the provider's row names nothing at all: two ids that differ are two movements, however equal their amounts;
4. what is still left, with its candidates: by metadata, and the nearest of the same amount on either side of it in time.

Linear in what is left: two thousand payments of 15.00 in one hour make at most two candidates each, not two thousand.
"""

from collections.abc import Callable
from typing import Any, Final

from django.db import connection

from payments.selectors import BOOKINGS_VIEW, ID_FUNCTION, NUMBER_FUNCTION
from reconciliation.matching.days import run
from reconciliation.types import Rule, Rules

SHOWN: Final = 5  # candidates that a person chooses among; who needs more searches

_TABLES = """
DROP TABLE IF EXISTS pg_temp.recon_left, pg_temp.recon_edge, pg_temp.recon_fuzzy, pg_temp.recon_candidate;
CREATE TEMPORARY TABLE recon_left (
    side text, kind text, source text, at timestamptz, currency text, minor bigint, order_reference text,
    payment_number text, payment_id uuid, intent text, names_nothing boolean, ours_id uuid, tolerance_minor bigint,
    number text, has_a_fee boolean
) ON COMMIT DROP;
CREATE TEMPORARY TABLE recon_edge (kind text, theirs text, ours text, agrees boolean) ON COMMIT DROP;
CREATE TEMPORARY TABLE recon_fuzzy (kind text, source text, ours_source text, rule text) ON COMMIT DROP;
CREATE TEMPORARY TABLE recon_candidate (
    kind text, theirs text, ours text, agrees text[], differs text[], apart interval, theirs_card jsonb, ours_card jsonb
) ON COMMIT DROP;
"""

_LEFT = f"""
INSERT INTO recon_left
SELECT 'theirs', p.kind, p.source, p.theirs_at, p.theirs_currency, p.theirs_minor, coalesce(p.reference, p.theirs_order),
       p.theirs_payment, CASE WHEN p.theirs_payment ~ '^pay_[0-9a-z]{{26}}$' THEN {ID_FUNCTION}(p.theirs_payment) END,
       p.intent,
       -- a statement's row that knows neither object nor order stands under its own id
       p.ids = ARRAY[p.source] AND p.intent = '' AND p.charge IN ('', p.source) AND p.theirs_order = ''
           AND p.theirs_payment = '',
       NULL, 0, NULL, false
FROM recon_pair p
WHERE p.kind IN ('charge', 'refund') AND p.ours_id IS NULL AND p.theirs_minor > 0
  AND p.theirs_status IN ('', 'succeeded') AND NOT p.is_foreign AND NOT p.is_duplicate
UNION ALL
SELECT 'ours', p.kind, p.source, p.ours_at, p.ours_currency, p.ours_minor, p.reference, '', p.payment_id, p.intent, false,
       p.ours_id, coalesce((
           SELECT coalesce(max(a.minor) FILTER (WHERE a.merchant_id IS NOT NULL), max(a.minor))
           FROM unnest(%(tolerant)s::uuid[], %(of_currency)s::text[], %(tolerated)s::bigint[])
               AS a (merchant_id, currency, minor)
           WHERE a.currency = p.ours_currency AND (a.merchant_id = p.merchant_id OR a.merchant_id IS NULL)
       ), 0),
       CASE p.kind WHEN 'charge' THEN {NUMBER_FUNCTION}('pay', p.payment_id) END, false
FROM recon_pair p
WHERE p.kind IN ('charge', 'refund') AND p.theirs_rows IS NULL AND p.ours_booked AND p.ours_minor > 0
"""  # noqa: S608  constants

# A fee of a row that the provider does not hold: somebody has to say which of both is right.
_HAS_A_FEE = f"""
UPDATE recon_left l SET has_a_fee = true FROM {BOOKINGS_VIEW} b
WHERE l.number IS NOT NULL AND b.subject = l.number AND b.kind = 'fee' AND NOT EXISTS (
    SELECT FROM reconciliation_providertransaction t
    WHERE t.id = split_part(b.key, ':', 2) AND t.withdrawn_at IS NULL)
"""  # noqa: S608  constants

_AGREES = """
    o.currency = t.currency AND abs(o.minor - t.minor) <= o.tolerance_minor
    AND o.at BETWEEN t.at - %(apart)s AND t.at + %(apart)s AND (t.payment_number = '' OR o.payment_id = t.payment_id)
    AND NOT o.has_a_fee
"""
_EDGES = f"""
INSERT INTO recon_edge
SELECT t.kind, t.source, o.source, coalesce({_AGREES}, false)
FROM recon_left t JOIN recon_left o ON o.payment_id = t.payment_id
WHERE t.side = 'theirs' AND o.side = 'ours' AND t.kind = 'charge' AND o.kind = 'charge'
UNION
SELECT t.kind, t.source, o.source, coalesce({_AGREES}, false)
FROM recon_left t JOIN recon_left o ON o.order_reference = t.order_reference
WHERE t.side = 'theirs' AND o.side = 'ours' AND t.kind = 'charge' AND o.kind = 'charge' AND t.order_reference <> ''
UNION
-- One payment, under another charge than ours: its intent alone does not say that it was one charge.
SELECT t.kind, t.source, o.source, false
FROM recon_left t JOIN recon_left o ON o.intent = t.intent
WHERE t.side = 'theirs' AND o.side = 'ours' AND t.kind = 'charge' AND o.kind = 'charge' AND t.intent <> ''
UNION
-- One payment may have two refunds of an amount: only what we asked the provider for bears our payment's number.
SELECT t.kind, t.source, o.source, coalesce({_AGREES} AND t.payment_number <> '', false)
FROM recon_left t JOIN recon_left o ON o.intent = t.intent
WHERE t.side = 'theirs' AND o.side = 'ours' AND t.kind = 'refund' AND o.kind = 'refund' AND t.intent <> ''
"""  # noqa: S608  constants

_BY_METADATA = f"""
INSERT INTO recon_fuzzy
SELECT e.kind, e.theirs, e.ours, '{Rule.METADATA}'
FROM (
    SELECT kind, theirs, ours, count(*) OVER (PARTITION BY kind, theirs) AS fit_theirs,
           count(*) OVER (PARTITION BY kind, ours) AS fit_ours
    FROM recon_edge WHERE agrees
) e WHERE e.fit_theirs = 1 AND e.fit_ours = 1
"""  # noqa: S608

# Of all that is left of this amount, whether or not it could be put together: better asked once too often.
_BY_AMOUNT_AND_DATE = f"""
INSERT INTO recon_fuzzy
WITH near AS (
    SELECT l.*, count(*) FILTER (WHERE side = 'ours') OVER near AS ours_near,
           count(*) FILTER (WHERE side = 'theirs') OVER near AS theirs_near
    FROM recon_left l
    WINDOW near AS (PARTITION BY kind, currency, minor ORDER BY at
                    RANGE BETWEEN %(apart)s PRECEDING AND %(apart)s FOLLOWING)
)
SELECT t.kind, t.source, o.source, '{Rule.AMOUNT_AND_DATE}'
FROM near t JOIN near o ON o.kind = t.kind AND o.currency = t.currency AND o.minor = t.minor
WHERE t.side = 'theirs' AND t.names_nothing AND t.ours_near = 1 AND o.side = 'ours' AND o.theirs_near = 1
  AND NOT o.has_a_fee AND o.at BETWEEN t.at - %(apart)s AND t.at + %(apart)s
"""  # noqa: S608

_NOT_LEFT = (
    "DELETE FROM recon_left l USING recon_fuzzy f WHERE l.side = 'theirs' AND l.kind = f.kind AND l.source = f.source",
    "DELETE FROM recon_left l USING recon_fuzzy f WHERE l.side = 'ours' AND l.kind = f.kind AND l.source = f.ours_source",
)

# Of each amount, in the order of time: the last one of the other side before, and the first one after.
_CANDIDATES = """
INSERT INTO recon_candidate
WITH marked AS (
    SELECT l.*, ARRAY[to_char(l.at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'), l.source] AS mark FROM recon_left l
), near AS (
    SELECT kind, side, source,
           max(CASE side WHEN 'ours' THEN mark END) OVER earlier AS ours_before,
           min(CASE side WHEN 'ours' THEN mark END) OVER later AS ours_after,
           max(CASE side WHEN 'theirs' THEN mark END) OVER earlier AS theirs_before,
           min(CASE side WHEN 'theirs' THEN mark END) OVER later AS theirs_after
    FROM marked
    WINDOW earlier AS (PARTITION BY kind, currency, minor ORDER BY at, side, source
                       ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
           later AS (PARTITION BY kind, currency, minor ORDER BY at DESC, side DESC, source DESC
                     ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), proposed AS (
    SELECT kind, theirs, ours, true AS named FROM recon_edge
    UNION
    SELECT n.kind, n.source, other.source, false FROM near n
    CROSS JOIN LATERAL (VALUES (n.ours_before[2]), (n.ours_after[2])) AS other (source)
    WHERE n.side = 'theirs' AND other.source IS NOT NULL
    UNION
    SELECT n.kind, other.source, n.source, false FROM near n
    CROSS JOIN LATERAL (VALUES (n.theirs_before[2]), (n.theirs_after[2])) AS other (source)
    WHERE n.side = 'ours' AND other.source IS NOT NULL
), each_once AS (
    SELECT kind, theirs, ours, bool_or(named) AS named FROM proposed GROUP BY kind, theirs, ours
)
SELECT c.kind, c.theirs, c.ours, coalesce(f.agrees, '{}'), coalesce(f.differs, '{}'),
       greatest(t.at - o.at, o.at - t.at),
       jsonb_build_object('side', 'theirs', 'source', t.source, 'minor', t.minor, 'currency', t.currency, 'at', t.at,
                          'order', t.order_reference),
       jsonb_build_object('side', 'ours', 'source', o.source, 'id', o.ours_id, 'minor', o.minor, 'currency', o.currency,
                          'at', o.at, 'order', o.order_reference)
FROM each_once c
JOIN recon_left t ON t.side = 'theirs' AND t.kind = c.kind AND t.source = c.theirs
JOIN recon_left o ON o.side = 'ours' AND o.kind = c.kind AND o.source = c.ours
CROSS JOIN LATERAL (
    SELECT array_agg(name ORDER BY place) FILTER (WHERE same) AS agrees,
           array_agg(name ORDER BY place) FILTER (WHERE NOT same) AS differs
    FROM (VALUES
        (1, 'payment', CASE WHEN t.payment_number <> '' THEN t.payment_id IS NOT DISTINCT FROM o.payment_id END),
        (2, 'order', CASE WHEN t.order_reference <> '' THEN t.order_reference = o.order_reference END),
        (3, 'intent', CASE WHEN t.intent <> '' THEN t.intent = o.intent END),
        (4, 'amount', t.minor = o.minor),
        (5, 'currency', t.currency = o.currency),
        (6, 'date', o.at BETWEEN t.at - %(apart)s AND t.at + %(apart)s),
        (7, 'id', CASE WHEN NOT t.names_nothing THEN false END),
        (8, 'fee', CASE WHEN o.has_a_fee THEN false END)
    ) AS field (place, name, same)
) f
WHERE c.named OR o.at BETWEEN t.at - %(apart)s AND t.at + %(apart)s
"""


def _shown(side: str, other: str) -> str:
    """The best candidates of each leftover of a side, best first."""
    return f"""
    UPDATE recon_pair p SET candidates = best.cards
    FROM (
        SELECT ranked.kind, ranked.{side}, jsonb_agg(
            ranked.{other}_card || jsonb_build_object('agrees', ranked.agrees, 'differs', ranked.differs)
            ORDER BY ranked.place) AS cards
        FROM (
            SELECT c.*, row_number() OVER (
                PARTITION BY c.kind, c.{side}
                ORDER BY cardinality(c.agrees) - cardinality(c.differs) DESC, c.apart, c.{other}) AS place
            FROM recon_candidate c
        ) ranked
        WHERE ranked.place <= {SHOWN}
        GROUP BY ranked.kind, ranked.{side}
    ) best
    WHERE p.kind = best.kind AND p.source = best.{side}
    """  # noqa: S608  constants


_SHOWN_TO_A_PERSON = (_shown("theirs", "ours"), _shown("ours", "theirs"))


def start() -> None:
    """Make the tables, empty. Belongs inside a transaction, and ends with it."""
    run(_TABLES)


def propose(by: Rules, *, join: Callable[[], None]) -> None:
    """Fill `recon_fuzzy`, have its pairs put together (`join`), and write the candidates of what is left beside it.

    Belongs inside a transaction, after all stronger rules.
    """
    for table in ("recon_left", "recon_edge", "recon_fuzzy", "recon_candidate"):
        run(f"DELETE FROM {table}")  # noqa: S608  constants
    parameters: dict[str, Any] = {
        "apart": by.apart,
        "tolerant": [one.merchant_id for one in by.tolerances],
        "of_currency": [one.currency for one in by.tolerances],
        "tolerated": [one.amount_minor for one in by.tolerances],
    }
    run(_LEFT, parameters)
    if not _stand_on_both_sides():
        return
    run("ANALYZE recon_left")
    run(_HAS_A_FEE)
    run(_EDGES, parameters)
    for allowed, statement in ((by.metadata, _BY_METADATA), (by.amount_and_date, _BY_AMOUNT_AND_DATE)):
        if allowed:
            run(statement, parameters)
            for taken in _NOT_LEFT:
                run(taken)
    join()
    run(_CANDIDATES, parameters)
    for statement in _SHOWN_TO_A_PERSON:
        run(statement)


def _stand_on_both_sides() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(DISTINCT side) FROM recon_left")
        return bool(cursor.fetchone()[0] == 2)
