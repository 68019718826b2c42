"""`manage.py close_period 2026-10 --note "…"`: close a month of the books. It is reopened by two people, on the desk.

Exit codes: 0 closed (or was before), 1 something stands in its way, 2 could not run.
"""

from argparse import ArgumentTypeError
from datetime import date
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from foundation.errors import DomainError
from foundation.money import format_minor
from reconciliation import services
from reconciliation.errors import PeriodIsClosed, PeriodNotReady
from reconciliation.management.commands.import_statement import COULD_NOT_RUN

NOT_READY = 1


class Command(BaseCommand):
    help = "Close a month of the books: what comes later falls into the next open one."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("period", type=a_month, help="the month, as 2026-10")
        parser.add_argument("--note", default="closed on schedule", help="kept with the closing")
        parser.add_argument(
            "--carry-open",
            action="store_true",
            help="open items go on to the next month instead of standing in the way",
        )
        parser.add_argument(
            "--without-balance",
            action="store_true",
            help="Stripe's books come as files, and its API was not asked what it holds: kept with the note",
        )
        parser.add_argument(
            "--without-payouts",
            action="store_true",
            help="nor was it asked which rows its payouts are made of: kept with the note",
        )

    def handle(self, **options: Any) -> None:
        month = f"{options['period']:%Y-%m}"
        try:
            closing = services.close_period(
                period=options["period"],
                by="manage.py close_period",
                note=options["note"],
                carry_open=options["carry_open"],
                without_balance=options["without_balance"],
                without_payouts=options["without_payouts"],
            )
        except PeriodIsClosed:
            self.stdout.write(f"{month} is closed already: nothing was changed.")
            return
        except PeriodNotReady as error:
            for obstacle in error.members.get("obstacles", [error.detail]):
                self.stderr.write(f"{month}: {obstacle}")
            raise CommandError(f"{month} was not closed.", returncode=NOT_READY) from error
        except (DomainError, DatabaseError) as error:
            detail = error.detail if isinstance(error, DomainError) else f"the database does not answer: {error}"
            raise CommandError(f"Could not run: {detail}", returncode=COULD_NOT_RUN) from error
        self.stdout.write(
            f"{month} is closed, for the {_nth(closing.number)} time." if closing.number > 1 else f"{month} is closed."
        )
        for currency, one in sorted(closing.statements.items()):
            opening, end = (format_minor(one[name], currency) for name in ("opening_minor", "closing_minor"))
            self.stdout.write(f"  {currency.upper()}: {opening} → {end}")
        carried = closing.items["carried"]
        if carried:
            self.stdout.write(f"  {carried} items go on to the next month")
        for change in (closing.differences or {}).get("statement", []):
            was, now = (format_minor(change[name], change["currency"]) for name in ("before_minor", "after_minor"))
            self.stdout.write(f"  changed: {change['line']} {was} → {now}")


def _nth(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")


def a_month(text: str) -> date:
    """An argument that is a month, as its first day. Raises ArgumentTypeError."""
    try:
        return date.fromisoformat(f"{text}-01")
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a month: write it as 2026-10") from None
