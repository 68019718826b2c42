"""Read every open payment and refund at the provider now, instead of when each is due.

    manage.py recheck_payments
    manage.py recheck_payments pay_01jd… ref_01jd…

For after an outage, and before a period is closed. Nothing is sent: what the provider says is applied. Exit codes: 0 every
one was answered for and none needs a person, 1 some were not, or wait for a person (the desk lists them), 2 it could not run.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from rich.progress import Progress

from foundation.errors import DomainError
from payments import selectors, services

_BETWEEN_LINES = 500  # in a pipe, where there is no bar to watch
SETTLED, UNSETTLED, COULD_NOT_RUN = 0, 1, 2


class Command(BaseCommand):
    """Reads the provider's intents and refunds, writes payments and refunds."""

    help = "Read open payments and refunds at the provider now, and apply what it says"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "numbers", nargs="*", metavar="NUMBER", help="pay_… or ref_…; without any, all that are open"
        )

    def handle(self, *, numbers: Sequence[str], **_: Any) -> None:
        try:
            done = self._named(numbers) if numbers else self._all()
        except (DomainError, DatabaseError) as error:
            detail = error.detail if isinstance(error, DomainError) else " ".join(str(error).split())
            raise CommandError(f"Not finished: {detail}", returncode=COULD_NOT_RUN) from None
        sys.exit(SETTLED if done else UNSETTLED)

    def _all(self) -> bool:
        with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
            task = bar.add_task("Payments and refunds", total=services.open_count())

            def tell(asked: int) -> None:
                bar.update(task, completed=asked)
                if not sys.stdout.isatty() and asked % _BETWEEN_LINES == 0:
                    self.stdout.write(f"{asked:,} read")

            done = services.recheck_open(tell=tell)
        silent = done.asked - done.answered
        self.stdout.write(f"{done.asked:,} read, {silent:,} without an answer, {done.needs_person:,} need a person")
        return not silent and not done.needs_person

    def _named(self, numbers: Sequence[str]) -> bool:
        for number in numbers:
            services.take_provider_status(number, by="manage.py recheck_payments")
            view = selectors.get_refund(number) if number.startswith("ref_") else selectors.get_payment(number)
            self.stdout.write(f"{number}: {view.status}")
        return True
