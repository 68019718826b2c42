"""Takes in statement files: as a whole or not at all, each once."""

import hashlib
from datetime import date
from typing import BinaryIO

from django.db import DataError, IntegrityError, transaction
from django.db.models.functions import Now

from foundation.errors import InvalidInput
from reconciliation import books, imports, matching
from reconciliation.errors import StatementNotKept
from reconciliation.imports import Expected, Unreadable
from reconciliation.locks import one_writer
from reconciliation.models import ProviderRead, StatementFile
from reconciliation.types import Problem, StatementReport

_WAIT_FOR_RUN_S = 600  # a run that stores its results
_CHUNK = 256 * 1024


def import_statement(*, file: BinaryIO, name: str, by: str, expected: Expected | None = None) -> StatementReport:
    """Take in a statement file: its rows into our copy of the provider's books, each with its raw columns by hash.

    Every line is checked first; with any problem nothing is taken in, and the report lists them. The same file a second
    time changes nothing, and neither does a row that says what we knew. With both days in `expected` the file is taken to
    be all that the provider booked on them. `file` is seekable and binary. Belongs outside of transactions.

    What was stored is held against what was staged, by count and hash. Raises InvalidInput (half a period), BooksBusy,
    StatementNotKept.
    """
    expected = expected or Expected()
    if bool(expected.first_day) != bool(expected.last_day):
        raise InvalidInput("Say both days of the statement, or none.", param="first_day")
    sha256 = _hash_of(file)
    before = StatementFile.objects.filter(sha256=sha256).first()
    if before:
        return _report(before, replayed=True)
    try:
        layout = imports.read_layout(file, expected)
    except Unreadable as error:
        return StatementReport(name, sha256, problems=(error.problem,), problem_count=1)
    try:
        with transaction.atomic(durable=True):
            return _import(file, layout, expected, name=name, sha256=sha256, by=by)
    except DataError as error:
        torn = imports.torn_lines(file, layout, error)
        return _refused(name, sha256, layout, torn, len(torn))
    except _RefusedError as refused:
        return refused.report
    except IntegrityError:
        before = StatementFile.objects.filter(sha256=sha256).first()  # somebody took the same file in meanwhile
        if before is None:
            raise
        return _report(before, replayed=True)


class _RefusedError(Exception):
    """Rolls back what was staged."""

    def __init__(self, report: StatementReport) -> None:
        self.report = report
        super().__init__(report.name)


def _import(
    file: BinaryIO, layout: imports.Layout, expected: Expected, *, name: str, sha256: str, by: str
) -> StatementReport:
    rows = imports.stage(file, layout)
    problems, count = imports.problems(layout, expected)
    if problems:
        raise _RefusedError(_refused(name, sha256, layout, problems, count))
    first_day, last_day = imports.days(layout, expected)
    added = imports.keep(layout, expected, list(matching.CATEGORIES["charge"]))
    if not imports.is_kept(layout, expected, rows):
        raise StatementNotKept  # before anything is compared with it
    taken = StatementFile.objects.create(
        sha256=sha256,
        name=name[:255],
        layout=layout.name,
        rows=rows,
        added=added,
        first_day=first_day,
        last_day=last_day,
        by=by,
    )
    if expected.first_day and expected.last_day:
        _note_read(expected.first_day, expected.last_day, sha256)
    if first_day and last_day:
        with one_writer(wait_s=_WAIT_FOR_RUN_S):
            books.recount(first_day, last_day)
    return _report(taken, replayed=False)


def _note_read(first_day: date, last_day: date, sha256: str) -> None:
    """The file says all that there is of these days."""
    since, until = matching.window(first_day)[0], matching.window(last_day)[1]
    ProviderRead.objects.create(since=since, until=until, finished_at=Now(), statement=sha256)


def _refused(name: str, sha256: str, layout: imports.Layout, problems: list[Problem], count: int) -> StatementReport:
    return StatementReport(name, sha256, layout.name, problems=tuple(problems), problem_count=count)


def _report(taken: StatementFile, *, replayed: bool) -> StatementReport:
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
    )


def _hash_of(file: BinaryIO) -> str:
    file.seek(0)
    sha256 = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        sha256.update(chunk)
    return sha256.hexdigest()
