"""`manage.py import_bank_statement FILE`: take in a bank's statement file, as a whole or not at all, and match it with payouts.

Exit codes: 0 it is in (or was before), 1 it has problems and nothing was taken in, 2 could not run.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from foundation.errors import DomainError
from reconciliation import services
from reconciliation.bank.staging import Expected
from reconciliation.management.commands.import_statement import COULD_NOT_RUN, HAS_PROBLEMS, a_day, tell
from reconciliation.types import StatementReport


class Command(BaseCommand):
    help = "Take in a bank's statement file: CAMT.053, MT940, or our own CSV (docs/bank-statements.md)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--account", default="", help="refuse lines of any other")
        parser.add_argument("--currency", default="", help="refuse lines of any other")
        parser.add_argument("--first-day", type=a_day, help="refuse lines booked before it")
        parser.add_argument("--last-day", type=a_day, help="refuse lines booked after it")
        parser.add_argument("--encoding", default="utf-8", help="of MT940 and CSV; CAMT.053 says its own")
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, **options: Any) -> None:
        report = _take_in(options["file"], options)
        if options["json"]:
            self.stdout.write(json.dumps(asdict(report), default=str))
        else:
            tell(self, report)
            if not report.problems and not report.replayed:
                self.stdout.write(f"{report.matched} matched with payouts")
        if report.problems:
            raise CommandError("Nothing was taken in.", returncode=HAS_PROBLEMS)


def _take_in(path: Path, options: dict[str, Any]) -> StatementReport:
    expected = Expected(
        first_day=options["first_day"],
        last_day=options["last_day"],
        currency=options["currency"],
        account=options["account"],
        encoding=options["encoding"],
    )
    try:
        with path.open("rb") as file:
            return services.import_bank_statement(
                file=file, name=path.name, by="manage.py import_bank_statement", expected=expected
            )
    except OSError as error:
        raise CommandError(f"Could not run: {path}: {error.strerror}", returncode=COULD_NOT_RUN) from error
    except LookupError as error:
        raise CommandError(f"Could not run: {error}", returncode=COULD_NOT_RUN) from error
    except (DomainError, DatabaseError) as error:
        detail = error.detail if isinstance(error, DomainError) else f"the database does not answer: {error}"
        raise CommandError(f"Could not run: {detail}", returncode=COULD_NOT_RUN) from error
