"""Checks what a bank's file holds, all of it, and writes it. Works in the caller's transaction; its table ends with it.

A line is named within its account by its key: the bank's own reference, with day and amount (some banks give one reference to
several bookings); without one, what it says, and the how-many-eth of its day it is that says exactly this. So a booking that
comes in two files is one line, and two equal bookings of one day stay two.

A bank may cut a day into several statements (28C: 5/1, 5/2), of which each begins with the balance with which the one before ends.
What stands in one of those stands in no other, however equal: there, too, it is counted.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, BinaryIO, Final

from django.conf import settings
from django.db import connection
from psycopg import Copy

from foundation.money import format_minor
from reconciliation.bank import camt, files, plain, swift
from reconciliation.bank.files import Line, LineError, Read, Statement, check_currency
from reconciliation.imports import Unreadable
from reconciliation.limits import set_for_long_work
from reconciliation.models import BankStatement, StatementFile
from reconciliation.types import Problem


@dataclass(frozen=True, slots=True)
class Expected:
    """What a bank's file must keep to: days, both included, a currency, an account; None or empty: any."""

    first_day: date | None = None
    last_day: date | None = None
    currency: str = ""
    account: str = ""
    encoding: str = "utf-8"  # of MT940 and CSV; CAMT.053 says it itself


@dataclass(slots=True)
class Staged:
    """What was read: how many lines, of which statements, and what is wrong."""

    lines: int = 0
    statements: list[Statement] = field(default_factory=list)
    sums: dict[int, tuple[int, int]] = field(default_factory=dict)  # statement → how many lines, Σ of their amounts
    problems: list[Problem] = field(default_factory=list)  # the first of them
    problem_count: int = 0

    def note(self, problem: Problem) -> None:
        self.problem_count += 1
        if len(self.problems) < settings.RECONCILE_PROBLEMS_SHOWN:
            self.problems.append(problem)


_COLUMNS: Final = "line, statement, account, currency, booked_on, valued_on, amount_minor, reference, is_unique, refs, counterparty, said, raw"
_TABLE = """
CREATE TEMPORARY TABLE bank_staged (
    line integer, statement integer, account text, currency text, booked_on date, valued_on date, amount_minor bigint,
    reference text, is_unique boolean, refs text, counterparty text, said text, raw text
) ON COMMIT DROP
"""

# The other statements of the same day that lead to one of the file's, or go on from it, as we know them by other files.
_PAGES = """
CREATE TEMPORARY TABLE bank_page ON COMMIT DROP AS
WITH RECURSIVE told AS (
    SELECT * FROM unnest(%(statements)s::int[], %(accounts)s::text[], %(currencies)s::text[], %(first_days)s::date[],
                         %(last_days)s::date[], %(openings)s::bigint[], %(closings)s::bigint[], %(numbers)s::text[])
        AS t (statement, account, currency, first_day, last_day, opening_minor, closing_minor, number)
), other AS (
    SELECT p.* FROM reconciliation_bankstatement p
    WHERE p.opening_minor IS NOT NULL AND p.closing_minor IS NOT NULL AND NOT EXISTS (
        SELECT FROM told t WHERE (t.account, t.currency, t.first_day, t.last_day, t.opening_minor, t.closing_minor)
                               = (p.account::text, p.currency::text, p.first_day, p.last_day, p.opening_minor, p.closing_minor))
), before AS (
    SELECT t.statement, p.id, p.account, p.currency, p.first_day, p.opening_minor, t.first_day AS day
    FROM told t JOIN other p ON (p.account, p.currency, p.last_day, p.closing_minor) = (t.account, t.currency, t.first_day, t.opening_minor)
    WHERE p.opening_minor <> t.opening_minor -- else it may begin where this one begins
    UNION
    SELECT b.statement, p.id, p.account, p.currency, p.first_day, p.opening_minor, b.day
    FROM before b JOIN other p ON (p.account, p.currency, p.last_day, p.closing_minor) = (b.account, b.currency, b.day, b.opening_minor)
    WHERE b.first_day = b.day
), after AS (
    SELECT t.statement, p.id, p.account, p.currency, p.last_day, p.closing_minor, t.last_day AS day
    FROM told t JOIN other p ON (p.account, p.currency, p.first_day, p.opening_minor) = (t.account, t.currency, t.last_day, t.closing_minor)
    WHERE p.closing_minor <> t.closing_minor
    UNION
    SELECT a.statement, p.id, p.account, p.currency, p.last_day, p.closing_minor, a.day
    FROM after a JOIN other p ON (p.account, p.currency, p.first_day, p.opening_minor) = (a.account, a.currency, a.day, a.closing_minor)
    WHERE a.last_day = a.day
)
SELECT statement, id, day FROM before UNION SELECT statement, id, day FROM after UNION
-- Where one between them is not there yet, their numbers say it (MT940).
SELECT t.statement, o.id, t.first_day FROM told t
JOIN other o ON (o.account, o.currency, o.first_day, o.last_day) = (t.account, t.currency, t.first_day, t.last_day) AND o.number <> t.number
WHERE t.first_day = t.last_day AND o.number LIKE '%%/%%' AND t.number LIKE '%%/%%'
  AND split_part(o.number, '/', 1) = split_part(t.number, '/', 1)
"""

# The key of each line. What says the same as an earlier line, and has no reference, is another booking: it is counted. One with a
# reference as well where it stands in another statement of a day: `of_others` are those that say the same there.
_KEYED = """
CREATE TEMPORARY TABLE bank_keyed ON COMMIT DROP AS
WITH named AS (
    SELECT s.*, CASE
        WHEN reference <> '' AND is_unique THEN 'own:' || reference
        WHEN reference <> '' THEN concat_ws(':', 'ref', currency, booked_on, amount_minor, reference)
        ELSE concat_ws(':', 'said', currency, booked_on, amount_minor, left(encode(sha256(convert_to(
            concat_ws(chr(31), valued_on, refs, counterparty, said), 'UTF8')), 'hex'), 32))
    END AS name
    FROM bank_staged s
), elsewhere AS (
    SELECT n.line, count(*) AS of_others
    FROM named n JOIN bank_page p ON p.statement = n.statement AND p.day = n.booked_on
    JOIN reconciliation_bankline b ON b.statement_id = p.id AND b.account = n.account AND left(b.key, length(n.name)) = n.name
    WHERE NOT n.is_unique OR n.reference = '' GROUP BY n.line
), counted AS (
    SELECT n.*, row_number() OVER (PARTITION BY n.account, n.name ORDER BY n.line) AS nth, coalesce(e.of_others, 0) AS of_others
    FROM named n LEFT JOIN elsewhere e ON e.line = n.line
)
SELECT c.*, CASE WHEN reference = '' OR of_others > 0 THEN name || ':' || of_others + nth ELSE name END AS key
FROM counted c
"""

_PROBLEMS = """
WITH judged AS (
    SELECT k.line, CASE
        WHEN k.reference <> '' AND k.nth > 1 THEN 'the line ' || left(k.reference, 60) || ' stands in the file before'
        WHEN b.id IS NOT NULL AND (b.amount_minor, b.currency, b.booked_on)
             IS DISTINCT FROM (k.amount_minor, k.currency::varchar, k.booked_on)
            THEN 'it says something else than what we read of ' || left(k.reference, 60) || ' before'
    END AS problem
    FROM bank_keyed k LEFT JOIN reconciliation_bankline b ON b.account = k.account AND b.key = k.key
)
SELECT line, problem, count(*) OVER () FROM judged WHERE problem IS NOT NULL ORDER BY line LIMIT %s
"""

_FRESH = """FROM bank_keyed k
    WHERE NOT EXISTS (SELECT FROM reconciliation_bankline b WHERE b.account = k.account AND b.key = k.key)"""
_COUNT_NEW = f"SELECT count(*) {_FRESH}"
_KEEP = f"""
WITH fresh AS (
    SELECT k.* {_FRESH}
), raw AS (
    INSERT INTO reconciliation_rawrow (sha256, body)
    SELECT DISTINCT sha256(convert_to(raw, 'UTF8')), raw FROM fresh
    ON CONFLICT (sha256) DO NOTHING
)
INSERT INTO reconciliation_bankline
    (id, account, key, booked_on, valued_on, amount_minor, currency, reference, "references", counterparty, text, of_provider,
     sha256, file_id, statement_id, line)
SELECT uuidv7(), account, key, booked_on, valued_on, amount_minor, currency, reference, refs, counterparty, said,
       concat_ws(' ', counterparty, said, refs) ~* %(marks)s, sha256(convert_to(raw, 'UTF8')), %(file)s,
       (%(statements)s::uuid[])[statement + 1], line
FROM fresh
ON CONFLICT (account, key) DO NOTHING
"""  # noqa: S608


def stage(file: BinaryIO, layout: str, expected: Expected) -> Staged:
    """Read a file to its end into the temporary table `bank_staged`, and say what is wrong with which line of it."""
    staged = Staged()
    with connection.cursor() as cursor:
        set_for_long_work(cursor)
        cursor.execute("DROP TABLE IF EXISTS pg_temp.bank_staged, pg_temp.bank_page, pg_temp.bank_keyed")
        cursor.execute(_TABLE)
        with (
            connection.wrap_database_errors,
            cursor.copy(f"COPY bank_staged ({_COLUMNS}) FROM STDIN") as copy,
        ):
            _read_all(copy, staged, _reader(file, layout, expected), expected)
    if not staged.problem_count:
        _check_balances(staged)
    if not staged.problem_count:
        _check_together(staged)
    staged.problems.sort(key=lambda problem: problem.line)
    return staged


def count_new() -> int:
    """How many of the staged lines nobody had told us before."""
    with connection.cursor() as cursor:
        cursor.execute(_COUNT_NEW)
        count: int = cursor.fetchone()[0]
    return count


def keep(staged: Staged, taken: StatementFile) -> None:
    """Write what was staged, and has no problem. A line that we know stays as it is."""
    statements = [
        BankStatement(
            file=taken,
            account=one.account,
            currency=one.currency,
            number=one.number,
            first_day=one.first_day,
            last_day=one.last_day,
            opening_minor=one.opening_minor,
            closing_minor=one.closing_minor,
            lines=staged.sums.get(index, (0, 0))[0],
        )
        for index, one in enumerate(staged.statements)
        if one.first_day and one.last_day  # checked: each has both
    ]
    BankStatement.objects.bulk_create(statements)
    ids = [one.pk for one in statements]
    with connection.cursor() as cursor:
        cursor.execute(_KEEP, {"file": taken.pk, "marks": _marks(), "statements": ids})


def _marks() -> str:
    """Finds the provider's names as whole words, whatever their case: Pinstripe Tailors is a customer."""
    names = "|".join(re.escape(mark) for mark in settings.BANK_PROVIDER_MARKS)
    return f"(^|[^[:alnum:]])({names})([^[:alnum:]]|$)"


def _reader(file: BinaryIO, layout: str, expected: Expected) -> Read:
    file.seek(0)
    if layout == files.CAMT053:
        return camt.read(file)
    read = swift.read if layout == files.MT940 else plain.read
    return read(file, expected.encoding)


def _read_all(copy: Copy, staged: Staged, found: Read, expected: Expected) -> None:
    try:
        for one in found:
            if isinstance(one, Line):
                _stage_line(copy, staged, one, expected)
            elif isinstance(one, Statement):
                staged.statements.append(one)
                for problem in _problems_of(one):
                    staged.note(problem)
            else:
                staged.note(one)
    except Unreadable as error:
        staged.note(error.problem)


def _stage_line(copy: Copy, staged: Staged, line: Line, expected: Expected) -> None:
    problem = _problem(line, expected)
    if problem:
        staged.note(Problem(line.line, problem))
        return
    staged.lines += 1
    count, total = staged.sums.get(line.statement, (0, 0))
    staged.sums[line.statement] = (count + 1, total + line.amount_minor)
    texts = (line.references, line.counterparty, line.text, line.raw)
    values: Sequence[Any] = (
        *(line.line, line.statement, line.account, line.currency, line.booked_on, line.valued_on, line.amount_minor),
        *(line.reference, line.is_unique, *texts),
    )
    copy.write_row(values)


def _problem(line: Line, expected: Expected) -> str:
    """What is wrong with a line by itself; empty where nothing is."""
    if not line.account:
        return "the statement does not say of which account it is"
    if expected.account and line.account != files.account_of(expected.account):
        return f"wrong account: {line.account}, not {files.account_of(expected.account)}"
    if expected.currency and line.currency != expected.currency.lower():
        return f"wrong currency: {line.currency}, not {expected.currency.lower()}"
    if not (expected.first_day or date.min) <= line.booked_on <= (expected.last_day or date.max):
        return f"wrong day: {line.booked_on}"
    return ""


def _problems_of(statement: Statement) -> Iterator[Problem]:
    if not statement.account:
        yield Problem(statement.line, "the statement does not say of which account it is")
    try:
        check_currency(statement.currency)
    except LineError as error:
        yield Problem(statement.line, str(error))
    if not statement.first_day or not statement.last_day:
        yield Problem(statement.line, "the statement does not say of which days it is")
    elif statement.last_day < statement.first_day:
        yield Problem(statement.line, f"the statement ends on {statement.last_day}, before it begins")


def _check_balances(staged: Staged) -> None:
    """A line that is missing, or stands twice, does not lead from one balance to the other."""
    for index, one in enumerate(staged.statements):
        if one.opening_minor is None or one.closing_minor is None:
            continue
        leads_to = one.opening_minor + staged.sums.get(index, (0, 0))[1]
        if leads_to != one.closing_minor:
            says, is_ = format_minor(one.closing_minor, one.currency), format_minor(leads_to, one.currency)
            staged.note(
                Problem(one.line, f"torn: opening balance and lines lead to {is_}, the closing balance says {says}")
            )


def _check_together(staged: Staged) -> None:
    """What only shows beside the other lines, and beside what we were told before."""
    with connection.cursor() as cursor:
        cursor.execute(_PAGES, _pages(staged.statements))
        cursor.execute(_KEYED)
        cursor.execute("ANALYZE bank_keyed")
        cursor.execute(_PROBLEMS, [settings.RECONCILE_PROBLEMS_SHOWN])
        for line, problem, count in cursor.fetchall():
            staged.problem_count = count
            staged.problems.append(Problem(line, problem))


def _pages(statements: Sequence[Statement]) -> dict[str, Any]:
    """Those that say with which balance they begin and end."""
    whole = [
        (index, one)
        for index, one in enumerate(statements)
        if one.opening_minor is not None and one.closing_minor is not None
    ]
    return {
        "statements": [index for index, _ in whole],
        "accounts": [one.account for _, one in whole],
        "currencies": [one.currency for _, one in whole],
        "first_days": [one.first_day for _, one in whole],
        "last_days": [one.last_day for _, one in whole],
        "openings": [one.opening_minor for _, one in whole],
        "closings": [one.closing_minor for _, one in whole],
        "numbers": [one.number for _, one in whole],
    }
