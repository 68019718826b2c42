"""`manage.py start_books 2026-11-01 --balance usd=1234.50 --note "…"`: go-live of the books, once.

Exit codes: 0 written down, 2 could not run.
"""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from foundation.errors import DomainError, InvalidInput
from foundation.money import format_minor, parse_major
from reconciliation import services
from reconciliation.management.commands.import_statement import COULD_NOT_RUN, a_day


class Command(BaseCommand):
    help = (
        "Write down since when our books answer for Stripe's account, and what it held then. Older rows are no breaks."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("starts_on", type=a_day, help="the first day, UTC")
        parser.add_argument(
            "--balance",
            action="append",
            default=[],
            metavar="usd=1234.50",
            help="what Stripe held at the first moment of that day, once a currency; without any, nothing",
        )
        parser.add_argument("--note", required=True, help="where the figures come from: an auditor will read it")

    def handle(self, **options: Any) -> None:
        try:
            balances = dict(_balance(text) for text in options["balance"])
            services.start_books(
                starts_on=options["starts_on"], balances=balances, by="manage.py start_books", note=options["note"]
            )
        except (DomainError, DatabaseError) as error:
            detail = error.detail if isinstance(error, DomainError) else f"the database does not answer: {error}"
            raise CommandError(f"Could not run: {detail}", returncode=COULD_NOT_RUN) from error
        held = ", ".join(format_minor(minor, currency) for currency, minor in sorted(balances.items())) or "nothing"
        self.stdout.write(f"The books begin on {options['starts_on']} with {held}.")


def _balance(text: str) -> tuple[str, int]:
    currency, equals, amount = text.partition("=")
    if not equals:
        raise InvalidInput(f"{text!r} is no balance: write it as usd=1234.50.")
    return currency.strip().lower(), parse_major(amount, currency.strip().lower())
