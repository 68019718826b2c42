"""`manage.py statement`: a day's statement per currency, opening + bookings = closing, with its proofs.

Exit codes: 0 every proof holds, 1 a residual is left or a proof could not be made, 2 could not run.
"""

import json
import sys
from datetime import date, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from foundation.database import database_now
from foundation.errors import DomainError, InvalidInput
from foundation.exports import csv_lines
from foundation.money import format_minor
from reconciliation import books, tables
from reconciliation.management.commands.import_statement import COULD_NOT_RUN, a_day
from reconciliation.types import Statement

NOT_PROVED = 1
_LONGEST_RANGE_DAYS = 366


class Command(BaseCommand):
    help = "Print the statement of a day (yesterday, unless told otherwise) or of a range of days."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--date", type=a_day, help="the UTC day, as 2026-11-19; without it, yesterday")
        parser.add_argument("--from", type=a_day, dest="first", help="with --to: every day of a range, both included")
        parser.add_argument("--to", type=a_day, dest="last")
        parser.add_argument("--currency", default="", help="this one alone")
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--csv", action="store_true", help="as the export of the desk's page")
        form.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, **options: Any) -> None:
        try:
            found = [
                one
                for day in _days(options)
                for one in books.statements(day)
                if options["currency"] in ("", one.currency)
            ]
        except (DomainError, DatabaseError) as error:
            detail = error.detail if isinstance(error, DomainError) else f"the database does not answer: {error}"
            raise CommandError(f"Could not run: {detail}", returncode=COULD_NOT_RUN) from error
        if options["csv"]:
            for line in csv_lines(tables.STATEMENT_COLUMNS, tables.statement_rows(found)):
                self.stdout.write(line, ending="")
        elif options["json"]:
            self.stdout.write(json.dumps({"statements": [tables.statement_document(one) for one in found]}))
        else:
            for one in found:
                self._tell(one)
            if not found:
                self.stdout.write("Nothing was booked so far.")
        sys.exit(0 if all(one.is_proved for one in found) else NOT_PROVED)

    def _tell(self, statement: Statement) -> None:
        def line(name: str, minor: int, more: str = "") -> None:
            self.stdout.write(f"  {name:<28}{format_minor(minor, statement.currency):>18}  {more}".rstrip())

        self.stdout.write(f"{statement.day} {statement.currency.upper()}")
        line("opening", statement.opening_minor)
        for one in statement.lines:
            fee = f"fees {format_minor(one.fee_minor, statement.currency)}" if one.fee_minor else ""
            line(
                one.category.replace("_", " "),
                one.net_minor,
                f"{one.rows} {'row' if one.rows == 1 else 'rows'}  {fee}".rstrip(),
            )
        line("closing", statement.closing_minor)
        for proof in statement.proofs:
            self.stdout.write(f"  {tables.told(proof, statement.currency)}")


def _days(options: dict[str, Any]) -> list[date]:
    first, last = options["first"], options["last"]
    if (options["date"] and (first or last)) or bool(first) != bool(last):
        raise InvalidInput("give --date alone, or --from and --to together.")
    if not first:
        return [options["date"] or database_now().date() - timedelta(days=1)]
    if not 0 <= (last - first).days < _LONGEST_RANGE_DAYS:
        raise InvalidInput(f"--from must not be after --to, nor more than {_LONGEST_RANGE_DAYS} days before it.")
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
