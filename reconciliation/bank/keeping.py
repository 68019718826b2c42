"""Writes what was staged of a bank's file: which of its lines are bookings that we know, and which are new.

**The rule.** Two lines that say the same (day, amount, references, text) are one booking only where their statements tell of the
same stretch of the account. Balances say that: laid over one another, so that both have the same balance at the same place, two
statements hold the same lines for as long as both last. A day lies in its week so, a statement of noon in that of the evening.
The lines between the two balances may stand in another order.

They tell of different stretches where no day is told by both, where MT940 numbers them as pages of one statement (5/1 and 5/2), or
where the balances lead from the end of one to the beginning of the other, over others that we have if need be. Then equal lines are
several bookings, and counted.

What says all the same from the same balance on is the same stretch as long as nothing that we have leads from one to the other: of an
account that is emptied between two equal bookings without a reference, on one day, in statements without numbers of pages, the second is
not told from the first before that is in.

Where both may be (a page that ends with the balance with which it begins), or neither (what is between them is not there yet), the
file is refused and says so: no booking is dropped, and none is doubled, by a guess. Only in a file of its own a page that goes on
from another one is taken for that, and a statement that spans more days than the other one for one that repeats it.

A statement without balances (our CSV) proves nothing: its lines are those that say the same, the CSV's by their references.

PostgreSQL holds the result: a statement has as many lines as it said, and they lead from its opening balance to its closing one
(`bank_statement_adds_up`). Works in the caller's transaction, which alone keeps lines of these accounts (`locks.one_keeper`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.conf import settings
from django.db import connection
from django.db.backends.utils import CursorWrapper

from reconciliation.bank.files import MT940, Statement
from reconciliation.models import BankStatement
from reconciliation.types import Problem

# What a line says: the same of a line that is staged (`bank_named`) and of one that is kept.
_SAID_BEFORE: Final = """CASE
    WHEN b.key LIKE 'own:%%' THEN b.key
    WHEN b.key LIKE 'ref:%%' THEN concat_ws(':', 'ref', b.currency, b.booked_on, b.amount_minor, b.reference)
    ELSE regexp_replace(b.key, ':[0-9]+$', '')
END"""

# A line that bears a reference of its own names the same booking for ever.
_OTHERWISE = """
SELECT n.line, 'it says something else than what we read of ' || left(n.reference, 60) || ' before', count(*) OVER ()
FROM bank_named n JOIN reconciliation_bankline b ON b.account = n.account AND b.key = n.name
WHERE n.is_unique AND (b.amount_minor, b.currency, b.booked_on) IS DISTINCT FROM (n.amount_minor, n.currency::varchar, n.booked_on)
ORDER BY n.line LIMIT %s
"""

# Made once for all statements of a file: a table that is dropped keeps its locks to the transaction's end.
_TABLES: Final = """
DROP TABLE IF EXISTS pg_temp.bank_near, pg_temp.bank_placed, pg_temp.bank_laid, pg_temp.bank_shared, pg_temp.bank_chosen;
CREATE TEMPORARY TABLE bank_near (
    id uuid, file_id uuid, number text, first_day date, last_day date, opening_minor bigint, closing_minor bigint
) ON COMMIT DROP;
CREATE TEMPORARY TABLE bank_placed (
    id uuid, sort smallint, line_id uuid, name text, booked_on date, place integer, nth bigint, lines bigint, balance_minor numeric,
    prints numeric, print numeric
) ON COMMIT DROP;
CREATE TEMPORARY TABLE bank_laid (
    id uuid, number text, first_day date, last_day date, sort smallint, mine bigint, theirs bigint, lines bigint, same text
) ON COMMIT DROP;
CREATE TEMPORARY TABLE bank_shared (line_id uuid, name text, place integer) ON COMMIT DROP;
CREATE TEMPORARY TABLE bank_chosen ON COMMIT DROP AS
SELECT n.*, NULL::uuid AS line_id, false AS is_new, '' AS key FROM bank_named n LIMIT 0;
CREATE INDEX ON pg_temp.bank_named (statement, name)
"""
_EMPTIED: Final = "TRUNCATE bank_near, bank_placed, bank_laid, bank_shared, bank_chosen"

# Statements that tell of a day of this one. One of which not all lines are known (from before that was noted) has no places, and
# beside one that has no balances itself none proves anything.
_NEAR = """
INSERT INTO bank_near
SELECT s.id, s.file_id, s.number, s.first_day, s.last_day, s.opening_minor, s.closing_minor
FROM reconciliation_bankstatement s
WHERE %(has_balances)s AND s.account = %(account)s AND s.currency = %(currency)s AND s.id <> %(id)s
  AND s.last_day >= %(first_day)s AND s.first_day <= %(last_day)s
  AND s.opening_minor IS NOT NULL AND s.closing_minor IS NOT NULL
  AND s.lines = (SELECT count(*) FROM reconciliation_bankstatementline l WHERE l.statement_id = s.id)
"""

# The lines of this statement, and of those near it that hold one which says the same: each with its place and the balance before
# it; as they were told, by day, and from the last to the first, since some banks list the newest first. `prints` is what all
# lines up to it say, in any order.
_PLACED = f"""
INSERT INTO bank_placed
WITH told AS (
    SELECT n.id, b.id AS line_id, {_SAID_BEFORE} AS name, b.amount_minor, b.booked_on, l.place, n.opening_minor
    FROM bank_near n JOIN reconciliation_bankstatementline l ON l.statement_id = n.id
    JOIN reconciliation_bankline b ON b.id = l.line_id
), stood AS (
    SELECT * FROM told WHERE id IN (
        SELECT t.id FROM told t WHERE t.name IN (SELECT name FROM bank_named WHERE statement = %(index)s))
    UNION ALL
    SELECT %(id)s, NULL, name, amount_minor, booked_on, place, %(opening_minor)s FROM bank_named WHERE statement = %(index)s
)
SELECT s.id, o.sort, s.line_id, s.name, s.booked_on, s.place, row_number() OVER places AS nth, count(*) OVER (PARTITION BY s.id, o.sort) AS lines,
       s.opening_minor + sum(s.amount_minor) OVER places - s.amount_minor AS balance_minor,
       sum(hashtextextended(s.name, 0)::numeric) OVER places AS prints, hashtextextended(s.name, 0)::numeric AS print
FROM stood s CROSS JOIN (VALUES (0), (1), (2)) AS o (sort)
WINDOW places AS (
    PARTITION BY s.id, o.sort ORDER BY CASE WHEN o.sort = 1 THEN s.booked_on END, CASE WHEN o.sort = 2 THEN -s.place ELSE s.place END
    ROWS UNBOUNDED PRECEDING)
"""  # noqa: S608

# How each of them lies to this one: `none` of its lines are the same, or those of a stretch are, or it cannot be told.
_LAID = """
INSERT INTO bank_laid
WITH RECURSIVE earlier AS (
    SELECT %(id)s::uuid AS id, %(opening_minor)s::bigint AS opening_minor, %(first_day)s::date AS first_day, %(last_day)s::date AS last_day
    UNION
    SELECT n.id, n.opening_minor, n.first_day, n.last_day FROM earlier e JOIN bank_near n
      ON n.closing_minor = e.opening_minor AND n.first_day <= e.first_day AND n.last_day <= e.last_day
), later AS (
    SELECT %(id)s::uuid AS id, %(closing_minor)s::bigint AS closing_minor, %(first_day)s::date AS first_day, %(last_day)s::date AS last_day
    UNION
    SELECT n.id, n.closing_minor, n.first_day, n.last_day FROM later a JOIN bank_near n
      ON n.opening_minor = a.closing_minor AND n.first_day >= a.first_day AND n.last_day >= a.last_day
), begins AS (  -- one of both begins where the other one has that balance
    SELECT t.id, t.sort, m.nth AS mine, t.nth AS theirs FROM bank_placed m JOIN bank_placed t
      ON t.sort = m.sort AND t.balance_minor = m.balance_minor
    WHERE m.id = %(id)s AND t.id <> %(id)s AND m.nth = 1
    UNION
    SELECT t.id, t.sort, m.nth, t.nth FROM bank_placed m JOIN bank_placed t
      ON t.sort = m.sort AND t.balance_minor = m.balance_minor
    WHERE m.id = %(id)s AND t.id <> %(id)s AND t.nth = 1
), lies AS (  -- and holds the same lines from there on, for as long as both last
    SELECT b.*, c.lines FROM begins b
    JOIN bank_placed m ON m.id = %(id)s AND m.sort = b.sort AND m.nth = b.mine
    JOIN bank_placed t ON t.id = b.id AND t.sort = b.sort AND t.nth = b.theirs
    CROSS JOIN LATERAL (SELECT least(m.lines - m.nth, t.lines - t.nth) + 1 AS lines) c
    JOIN bank_placed m_end ON m_end.id = %(id)s AND m_end.sort = b.sort AND m_end.nth = b.mine + c.lines - 1
    JOIN bank_placed t_end ON t_end.id = b.id AND t_end.sort = b.sort AND t_end.nth = b.theirs + c.lines - 1
    WHERE m_end.prints - m.prints + m.print = t_end.prints - t.prints + t.print
), stretch AS (
    SELECT DISTINCT ON (id) id, sort, mine, theirs, lines, min(lines) OVER each <> max(lines) OVER each AS differs
    FROM lies WINDOW each AS (PARTITION BY id, sort) ORDER BY id, sort, mine, theirs
), days AS (
    SELECT id, min(booked_on) AS first_day, max(booked_on) AS last_day, sum(print) AS prints FROM bank_placed WHERE sort = 0 GROUP BY id
)
SELECT n.id, n.number, n.first_day, n.last_day, s.sort, s.mine, s.theirs, s.lines, CASE
    WHEN %(has_pages)s AND n.number ~ '^[0-9]+/[0-9]+$' AND %(number)s ~ '^[0-9]+/[0-9]+$' AND n.number <> %(number)s
         AND split_part(n.number, '/', 1) = split_part(%(number)s, '/', 1) AND ltrim(split_part(n.number, '/', 1), '0') <> '' THEN 'none'
    -- backwards a balance means something only where nothing else tells them apart
    WHEN s.id IS NULL OR s.sort = 2 AND c.chained THEN CASE WHEN c.chained THEN 'none' ELSE 'unknown' END
    WHEN s.differs THEN 'unknown'
    WHEN NOT c.chained THEN 'stretch'
    WHEN d.prints = mine.prints AND (n.number, n.first_day, n.last_day, n.opening_minor)
         = (%(number)s, %(first_day)s, %(last_day)s, %(opening_minor)s) THEN 'stretch'
    WHEN n.file_id = %(file)s THEN 'none'
    WHEN (d.first_day, d.last_day) <> (mine.first_day, mine.last_day) AND (
         d.first_day <= mine.first_day AND d.last_day >= mine.last_day
         OR d.first_day >= mine.first_day AND d.last_day <= mine.last_day) THEN 'stretch'
    -- of the first day one cannot be sure: MT940's is that of the booking before
    WHEN n.last_day > %(last_day)s AND n.first_day <= %(first_day)s OR n.last_day < %(last_day)s AND n.first_day >= %(first_day)s
        THEN 'stretch'
    ELSE 'unknown' END AS same
FROM bank_near n JOIN days d ON d.id = n.id JOIN days mine ON mine.id = %(id)s LEFT JOIN stretch s ON s.id = n.id
CROSS JOIN LATERAL (
    SELECT n.id IN (SELECT id FROM earlier UNION SELECT id FROM later) AS chained) c
"""

# The lines of those stretches, each with its place in this statement where that one says the same.
_SHARED = """
INSERT INTO bank_shared
SELECT t.line_id, t.name, min(m.place) FILTER (WHERE m.name = t.name) AS place FROM bank_laid a
JOIN bank_placed t ON t.id = a.id AND t.sort = a.sort AND t.nth >= a.theirs AND t.nth < a.theirs + a.lines
JOIN bank_placed m ON m.id = %(id)s AND m.sort = a.sort AND m.nth = a.mine + t.nth - a.theirs
WHERE a.same = 'stretch' GROUP BY t.line_id, t.name
"""

# One that cannot be told; or what the others say of this one contradicts itself.
_UNKNOWN = """
WITH too_many AS MATERIALIZED (
    SELECT FROM (SELECT name, count(*) AS lines FROM bank_shared GROUP BY name) s
    LEFT JOIN (SELECT name, count(*) AS lines FROM bank_named WHERE statement = %(index)s GROUP BY name) n USING (name)
    WHERE s.lines > coalesce(n.lines, 0)
), denied AS MATERIALIZED (
    SELECT DISTINCT p.id FROM bank_shared s JOIN bank_placed p ON p.line_id = s.line_id JOIN bank_laid a ON a.id = p.id AND a.same = 'none'
)
SELECT a.number, a.first_day FROM bank_laid a
WHERE a.same = 'unknown' OR a.id IN (SELECT id FROM denied) OR a.same = 'stretch' AND EXISTS (SELECT FROM too_many)
ORDER BY a.first_day, a.id LIMIT 1
"""

# Each line as the booking that it is: one of the same stretch, else one of a statement that proves nothing, else a new one.
_CHOSEN = f"""
INSERT INTO bank_chosen
WITH named AS (
    SELECT * FROM bank_named WHERE statement = %(index)s
), said AS (
    SELECT b.id, b.key, {_SAID_BEFORE} AS name FROM reconciliation_bankline b
    WHERE b.account = %(account)s AND b.booked_on IN (SELECT booked_on FROM named)
), proven AS MATERIALIZED (  -- statements whose balances say what their lines are
    SELECT s.id FROM reconciliation_bankstatement s
    WHERE s.id IN (SELECT l.statement_id FROM said b JOIN reconciliation_bankstatementline l ON l.line_id = b.id)
      AND s.opening_minor IS NOT NULL AND s.closing_minor IS NOT NULL
      AND s.lines = (SELECT count(*) FROM reconciliation_bankstatementline o WHERE o.statement_id = s.id)
), in_place AS (  -- equal lines keep their places, so that the next statement finds each where it was
    SELECT DISTINCT ON (place) place, line_id FROM bank_shared WHERE place IS NOT NULL ORDER BY place, line_id
), known AS (
    SELECT name, line_id, row_number() OVER (PARTITION BY name ORDER BY is_loose, line_id) AS nth FROM (
        SELECT name, line_id, false AS is_loose FROM bank_shared
        UNION ALL
        SELECT b.name, b.id, true FROM said b
        WHERE b.name IN (SELECT name FROM named) AND NOT EXISTS (SELECT FROM bank_shared s WHERE s.line_id = b.id) AND (
            NOT %(has_balances)s OR NOT EXISTS (
                SELECT FROM reconciliation_bankstatementline l JOIN proven p ON p.id = l.statement_id WHERE l.line_id = b.id))
    ) either WHERE NOT EXISTS (SELECT FROM in_place p WHERE p.line_id = either.line_id)
), elsewhere AS (
    SELECT place, name, row_number() OVER (PARTITION BY name ORDER BY place) AS nth FROM named n
    WHERE NOT EXISTS (SELECT FROM in_place p WHERE p.place = n.place)
), found AS (
    SELECT place, line_id FROM in_place
    UNION ALL
    SELECT e.place, k.line_id FROM elsewhere e JOIN known k ON k.name = e.name AND k.nth = e.nth
), counted AS (
    SELECT name, max(CASE WHEN key = name THEN 1 ELSE substr(key, length(name) + 2)::integer END) AS last FROM said
    WHERE name NOT LIKE 'own:%%' GROUP BY name
)
SELECT n.*, coalesce(f.line_id, uuidv7()) AS line_id, f.line_id IS NULL AS is_new, CASE WHEN n.is_unique THEN n.name
    ELSE n.name || ':' || coalesce(c.last, 0) + count(*) FILTER (WHERE f.line_id IS NULL) OVER (PARTITION BY n.name ORDER BY n.place)
    END AS key
FROM named n LEFT JOIN found f ON f.place = n.place LEFT JOIN counted c ON c.name = n.name
"""  # noqa: S608

_KEEP_RAW = """
INSERT INTO reconciliation_rawrow (sha256, body)
SELECT DISTINCT sha256(convert_to(raw, 'UTF8')), raw FROM bank_chosen WHERE is_new
ON CONFLICT (sha256) DO NOTHING
"""
_KEEP_LINES = """
INSERT INTO reconciliation_bankline
    (id, account, key, booked_on, valued_on, amount_minor, currency, reference, "references", counterparty, text, of_provider,
     sha256, file_id, statement_id, line)
SELECT line_id, account, key, booked_on, valued_on, amount_minor, currency, reference, refs, counterparty, said,
       concat_ws(' ', counterparty, said, refs) ~* %(marks)s, sha256(convert_to(raw, 'UTF8')), %(file)s, %(id)s, line
FROM bank_chosen WHERE is_new
"""
_KEEP_PLACES = """
INSERT INTO reconciliation_bankstatementline (statement_id, line_id, place) SELECT %(id)s, line_id, place FROM bank_chosen
"""


def otherwise() -> tuple[list[Problem], int]:
    """Lines whose reference named another booking before: the first of them, and how many."""
    with connection.cursor() as cursor:
        cursor.execute(_OTHERWISE, [settings.RECONCILE_PROBLEMS_SHOWN])
        rows = cursor.fetchall()
    return [Problem(line, problem) for line, problem, _ in rows], rows[0][2] if rows else 0


def begin() -> None:
    """Before the statements of a file."""
    with connection.cursor() as cursor:
        cursor.execute(_TABLES)


def keep(index: int, told: Statement, row: BankStatement, marks: str) -> int | Problem:
    """Write a statement, the index-th of its file, from 0, and its lines; how many of them are new. Or what is unclear."""
    parameters: dict[str, Any] = {
        "index": index,
        "marks": marks,
        "id": row.pk,
        "file": row.file_id,
        "account": row.account,
        "currency": row.currency,
        "number": row.number,
        "first_day": row.first_day,
        "last_day": row.last_day,
        "opening_minor": row.opening_minor,
        "closing_minor": row.closing_minor,
        "has_pages": row.file.layout == MT940,
        "has_balances": row.opening_minor is not None and row.closing_minor is not None,
    }
    with connection.cursor() as cursor:
        _run(
            cursor,
            (_EMPTIED, _NEAR, _PLACED, "ANALYZE bank_near, bank_placed", _LAID, _SHARED, "ANALYZE bank_shared"),
            parameters,
        )
        cursor.execute(_UNKNOWN, parameters)
        if unknown := cursor.fetchone():
            number, day = unknown
            called = f"statement {number} of {day}" if number else f"a statement of {day}"
            says = "the balances do not show whether it brings bookings of {} again, or others that say the same"
            return Problem(told.line, says.format(called))
        row.save(force_insert=True)
        _run(cursor, (_CHOSEN, _KEEP_RAW, _KEEP_LINES), parameters)
        added: int = cursor.rowcount
        _run(cursor, (_KEEP_PLACES,), parameters)
    return added


def _run(cursor: CursorWrapper, statements: Sequence[str], parameters: Mapping[str, Any]) -> None:
    for statement in statements:
        cursor.execute(statement, parameters)
