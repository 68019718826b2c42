"""Takes in statement files: as a whole or not at all, each once."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import BinaryIO
from zoneinfo import available_timezones

from django.db import DataError, IntegrityError, OperationalError, transaction
from django.db.models.functions import Now

from foundation.database import BECAUSE_OF_OTHERS, database_now, sqlstate
from foundation.errors import InvalidInput
from reconciliation import books, imports, matching
from reconciliation.errors import StatementNotKept
from reconciliation.imports import Expected, Unreadable
from reconciliation.locks import one_writer
from reconciliation.models import ProviderRead, StatementFile
from reconciliation.pages import RowWithoutEnd
from reconciliation.types import Problem, StatementReport, Whose

_WAIT_FOR_RUN_S = 600  # a run that stores its results
_TRIES = 5  # while others write the same rows
_CHUNK = 256 * 1024
_YEARS = (2000, 2099)  # another one is a slip


def import_statement(*, file: BinaryIO, name: str, by: str, expected: Expected | None = None) -> StatementReport:
    """Take in a statement file: its rows into our copy of the provider's books, kept as they came, in pages by hash.

    Every line is checked first; with any problem nothing is taken in, and the report lists them. The same file a second
    time changes nothing, and neither does a row that says what we knew. With both days in `expected` the file is taken to
    be all that the provider booked on them: it may not lack a row that we read before, and can be said of a file that was taken
    in without them. `file` is seekable and binary. Belongs outside of transactions.

    What was stored is held against what was staged, by count and hash. Raises InvalidInput (what is expected cannot be),
    BooksBusy, StatementNotKept.
    """
    expected = expected or Expected()
    _check(expected)
    sha256 = hash_of(file)
    before = _taken_in(sha256)
    if before and expected == Expected():
        return report(before, replayed=True)
    try:
        layout = imports.read_layout(file, expected)
    except Unreadable as error:
        return note_refused(refused(name, sha256, "", [error.problem], 1), by=by, whose=Whose.PROVIDER)
    for tries_left in reversed(range(_TRIES)):
        is_first = tries_left == _TRIES - 1
        try:
            with transaction.atomic(durable=True):
                taken = _import(file, layout, expected, name=name, sha256=sha256, by=by)
            break
        except RowWithoutEnd as error:
            endless = Problem(layout.lines + 1 + error.line, str(error))
            return note_refused(refused(name, sha256, layout.name, [endless], 1), by=by, whose=Whose.PROVIDER)
        except DataError as error:
            torn = imports.torn_lines(file, layout, error)
            return note_refused(refused(name, sha256, layout.name, torn, len(torn)), by=by, whose=Whose.PROVIDER)
        except _RefusedError as error:
            return note_refused(error.report, by=by, whose=Whose.PROVIDER)
        except IntegrityError:
            # Somebody took the same file in meanwhile, or read some of its rows: now we know them.
            if not tries_left:
                raise
        except StatementNotKept:
            if not is_first:  # else a reading of the API may have changed a row meanwhile
                raise
        except OperationalError as error:
            if not tries_left or sqlstate(error) not in BECAUSE_OF_OTHERS:
                raise
    imports.count_anew(taken.added)
    return taken


def _check(expected: Expected) -> None:
    """Raises InvalidInput."""
    if bool(expected.first_day) != bool(expected.last_day):
        raise InvalidInput("Say both days of the statement, or none.", param="first_day")
    for param, day in (("first_day", expected.first_day), ("last_day", expected.last_day)):
        if day and not _YEARS[0] <= day.year <= _YEARS[1]:
            raise InvalidInput(
                f"{day} is no day of a statement: its year lies outside {_YEARS[0]} to {_YEARS[1]}.", param=param
            )
    if expected.first_day and expected.last_day and expected.last_day < expected.first_day:
        raise InvalidInput(
            f"The last day, {expected.last_day}, lies before the first, {expected.first_day}.", param="last_day"
        )
    if expected.time_zone and expected.time_zone not in available_timezones():
        raise InvalidInput(f"{expected.time_zone} is no time zone: write it as Europe/Berlin.", param="time_zone")


def _taken_in(sha256: str) -> StatementFile | None:
    return StatementFile.objects.filter(sha256=sha256, refused=False).first()


class _RefusedError(Exception):
    """Rolls back what was staged."""

    def __init__(self, report: StatementReport) -> None:
        self.report = report
        super().__init__(report.name)


def _import(
    file: BinaryIO, layout: imports.Layout, expected: Expected, *, name: str, sha256: str, by: str
) -> StatementReport:
    rows = imports.stage(file, layout)
    imports.read(layout, expected, charge_categories=list(matching.CATEGORIES["charge"]))
    oldest, newest = imports.moments()
    window = _whole(expected, newest)
    problems, count = imports.problems(layout)
    if window and not problems:
        payouts = list(matching.CATEGORIES["payout"])
        problems, count = imports.lacking(layout, window, expected.currency, payouts=payouts)
    if problems:
        raise _RefusedError(refused(name, sha256, layout.name, problems, count))
    first_day, last_day = oldest and oldest.date(), newest and newest.date()
    # Before the first row is written: while we wait, nobody waits for us.
    with one_writer(wait_s=_WAIT_FOR_RUN_S):
        added = imports.keep()
        if not imports.is_kept(rows):
            raise StatementNotKept  # before anything is compared with it
        if first_day and last_day:
            books.recount(first_day, last_day)
        before = _taken_in(sha256)
    taken = before or StatementFile.objects.create(
        sha256=sha256,
        name=name[:255],
        layout=layout.name,
        rows=rows,
        added=added,
        first_day=first_day,
        last_day=last_day,
        by=by,
    )
    if window:
        _note_read(window, sha256, part=imports.PARTS[layout.name], currency=expected.currency.lower())
    return report(taken, replayed=before is not None)


def _whole(expected: Expected, newest: datetime | None) -> tuple[datetime, datetime] | None:
    """Of what the file is said to hold all: of its days; of one that is not over, up to its newest row. None: of nothing."""
    if not expected.first_day or not expected.last_day:
        return None
    since, until = matching.window(expected.first_day)[0], matching.window(expected.last_day)[1]
    today, _ = matching.window((database_now() + books.provider_is_ahead()).date())
    if until > today:
        until = max(min(until, today), newest + timedelta(seconds=1) if newest else since)
    return (since, until) if since < until else None


def _note_read(window: tuple[datetime, datetime], sha256: str, *, part: str, currency: str) -> None:
    read = {"since": window[0], "until": window[1], "statement": sha256, "part": part, "currency": currency}
    if not ProviderRead.objects.filter(**read).exists():
        ProviderRead.objects.create(**read, finished_at=Now())


def refused(name: str, sha256: str, layout: str, problems: Sequence[Problem], count: int) -> StatementReport:
    """Of a file that has problems: nothing of it was taken in."""
    return StatementReport(name, sha256, layout, problems=tuple(problems), problem_count=count)


def note_refused(told: StatementReport, *, by: str, whose: str) -> StatementReport:
    """Write down that a file was refused, and why: the desk lists it."""
    StatementFile.objects.create(
        sha256=told.sha256,
        name=told.name[:255],
        layout=told.layout,
        whose=whose,
        rows=0,
        added=0,
        by=by,
        refused=True,
        problem_count=told.problem_count,
        problems=[[problem.line, problem.reason] for problem in told.problems],
    )
    return told


def report(taken: StatementFile, *, replayed: bool, matched: int = 0) -> StatementReport:
    """Of a file that is in."""
    added = 0 if replayed else taken.added
    return StatementReport(
        name=taken.name,
        sha256=taken.sha256,
        layout=taken.layout,
        rows=taken.rows,
        added=added,
        known=taken.rows - added,
        first_day=taken.first_day,
        last_day=taken.last_day,
        replayed=replayed,
        matched=matched,
    )


def hash_of(file: BinaryIO) -> str:
    """SHA-256 of a file's bytes."""
    file.seek(0)
    sha256 = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        sha256.update(chunk)
    return sha256.hexdigest()
