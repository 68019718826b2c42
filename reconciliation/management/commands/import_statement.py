"""`manage.py import_statement FILE`: take in a statement file, as a whole or not at all.

Exit codes: 0 it is in (or was before), 1 it has problems and nothing was taken in, 2 could not run.
"""

import json
from argparse import ArgumentTypeError
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from foundation.errors import DomainError
from reconciliation import services
from reconciliation.imports import Expected
from reconciliation.types import StatementReport

HAS_PROBLEMS, COULD_NOT_RUN = 1, 2


class Command(BaseCommand):
    help = "Take in a statement file: Stripe's itemised activity CSV, or our own layout (docs/statement-files.md)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        add_expectations(parser)
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, **options: Any) -> None:
        report = take_in(options["file"], options, by="manage.py import_statement")
        if options["json"]:
            self.stdout.write(json.dumps(asdict(report), default=str))
        else:
            tell(self, report)
        if report.problems:
            raise CommandError("Nothing was taken in.", returncode=HAS_PROBLEMS)


def add_expectations(parser: CommandParser) -> None:
    """What the rows of the file must keep to."""
    parser.add_argument(
        "--first-day", type=a_day, help="with --last-day: the file is all that was booked on these days"
    )
    parser.add_argument("--last-day", type=a_day)
    parser.add_argument("--currency", default="", help="refuse rows of any other")
    parser.add_argument("--time-zone", default="", help="of the column created, where there is no created_utc")


def take_in(path: Path, options: dict[str, Any], *, by: str) -> StatementReport:
    """Raises CommandError where the file or the database cannot be read."""
    expected = Expected(
        first_day=options.get("first_day"),
        last_day=options.get("last_day"),
        currency=options.get("currency") or "",
        time_zone=options.get("time_zone") or "",
    )
    try:
        with path.open("rb") as file:
            return services.import_statement(file=file, name=path.name, by=by, expected=expected)
    except OSError as error:
        raise CommandError(f"Could not run: {path}: {error.strerror}", returncode=COULD_NOT_RUN) from error
    except (DomainError, DatabaseError) as error:
        detail = error.detail if isinstance(error, DomainError) else f"the database does not answer: {error}"
        raise CommandError(f"Could not run: {detail}", returncode=COULD_NOT_RUN) from error


def tell(command: BaseCommand, report: StatementReport) -> None:
    """What became of the file, for people; each problem on a line of its own."""
    for problem in report.problems:
        command.stderr.write(f"{report.name}:{problem.line}: {problem.reason}")
    more = report.problem_count - len(report.problems)
    if more > 0:
        command.stderr.write(f"… and {more} more")
    if report.problems:
        return
    days = f", {report.first_day} to {report.last_day}" if report.first_day else ""
    if report.replayed:
        command.stdout.write(f"{report.name}: taken in before, no row is new ({report.rows} rows{days})")
    else:
        command.stdout.write(f"{report.name}: {report.rows} rows{days}: {report.added} new, {report.known} known")
    for note in report.notes:
        command.stdout.write(note)


def a_day(text: str) -> date:
    """An argument that is a day. Raises ArgumentTypeError."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a day: write it as 2026-11-19") from None
