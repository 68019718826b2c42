"""Reads what a bank's file holds, all of it, checks each line and each statement by itself, and hands it on to be kept.

Works in the caller's transaction; its tables end with it. Which lines are bookings that we know is said by `keeping`.
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
from reconciliation.bank import camt, files, keeping, plain, swift
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
    place integer GENERATED ALWAYS AS IDENTITY (MINVALUE 1), line integer, statement integer, account text, currency text, booked_on date, valued_on date, amount_minor bigint,
    reference text, is_unique boolean, refs text, counterparty text, said text, raw text
) ON COMMIT DROP
"""

# What each line says. The bank's own reference with day and amount (some banks give one to several bookings), all that stands in
# it where it has none; a reference that is unique for ever is enough.
_NAMED = """
CREATE TEMPORARY TABLE bank_named ON COMMIT DROP AS
SELECT s.*, CASE
    WHEN reference <> '' AND is_unique THEN 'own:' || reference
    WHEN reference <> '' THEN concat_ws(':', 'ref', currency, booked_on, amount_minor, reference)
    ELSE concat_ws(':', 'said', currency, booked_on, amount_minor, left(encode(sha256(convert_to(
        concat_ws(chr(31), valued_on, refs, counterparty, said), 'UTF8')), 'hex'), 32))
END AS name
FROM bank_staged s
"""

# Where no balances prove that both are bookings.
_TWICE = """
SELECT line, 'the line ' || left(reference, 60) || ' stands in the file before', count(*) OVER () FROM (
    SELECT n.*, row_number() OVER (PARTITION BY account, name ORDER BY place) AS nth
    FROM bank_named n WHERE reference <> '' AND (is_unique OR statement <> ALL(%s))
) counted WHERE nth > 1 ORDER BY line LIMIT %s
"""


def stage(file: BinaryIO, layout: str, expected: Expected) -> Staged:
    """Read a file to its end into the temporary table `bank_staged`, and say what is wrong with which line of it."""
    staged = Staged()
    with connection.cursor() as cursor:
        set_for_long_work(cursor)
        cursor.execute("DROP TABLE IF EXISTS pg_temp.bank_staged, pg_temp.bank_named")
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


def keep(staged: Staged, taken: StatementFile) -> int | None:
    """Write what was staged and has no problem; how many lines are new. A line that we know stays as it is.

    Only beside what we were told before shows whether a line is one that we know: what is unclear is added to the problems, None
    is returned, and nothing may be committed. The accounts are locked before (`locks.one_keeper`).
    """
    problems, staged.problem_count = keeping.otherwise()
    staged.problems += problems
    keeping.begin()
    added, marks = 0, _marks()
    for index, one in enumerate(staged.statements):
        if staged.problem_count or one.first_day is None or one.last_day is None:  # checked: each has both
            return None
        row = BankStatement(
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
        kept = keeping.keep(index, one, row, marks)
        if isinstance(kept, Problem):
            staged.note(kept)
        else:
            added += kept
    return None if staged.problem_count else added


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
    """What only shows beside the other lines."""
    whole = [
        index
        for index, one in enumerate(staged.statements)
        if one.opening_minor is not None and one.closing_minor is not None
    ]
    with connection.cursor() as cursor:
        cursor.execute(_NAMED)
        cursor.execute("ANALYZE bank_named")
        cursor.execute(_TWICE, [whole, settings.RECONCILE_PROBLEMS_SHOWN])
        for line, problem, count in cursor.fetchall():
            staged.problem_count = count
            staged.problems.append(Problem(line, problem))
