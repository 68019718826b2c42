"""List the provider's events and store those that no webhook brought; workers read what they tell of.

    manage.py replay_events
    manage.py replay_events --since 2026-11-19T08:00
    manage.py replay_events --since 2026-11-19T08:00 --again

Beat does the first form at its start and hourly; by hand, after an outage that was longer, or with --again after a defect in
a handler, to have what is stored already worked on once more. Stripe keeps events for 30 days. Exit codes: 0 done, 2 it could
not run to the end: run it again, what was stored stays.
"""

import sys
from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from rich.progress import Progress

from foundation.errors import DomainError
from payments import services
from payments.errors import ProviderBusy, ProviderRefused, ProviderUnsure

_BETWEEN_LINES = 1_000  # events; in a pipe, where there is no bar to watch


class Command(BaseCommand):
    """Reads the provider's event list, writes the inbox."""

    help = "Store the provider's events that no webhook brought, newest first"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--since",
            metavar="TIME",
            type=_moment,
            help="ISO 8601, UTC where it names no zone; without it, from a little before what was listed last",
        )
        parser.add_argument("--again", action="store_true", help="have those that are stored worked on once more, too")

    def handle(self, *, since: datetime | None, again: bool, **_: Any) -> None:
        try:
            since = since or services.catch_up_since()
            with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
                task = bar.add_task("Events", total=None)

                def tell(listed: int) -> None:
                    bar.update(task, completed=listed)
                    if not sys.stdout.isatty() and listed % _BETWEEN_LINES == 0:
                        self.stdout.write(f"{listed:,} events listed")

                listed, new = services.replay_events(since=since, again=again, tell=tell)
        except (DomainError, ProviderBusy, ProviderUnsure, ProviderRefused, DatabaseError) as error:
            why = error.detail if isinstance(error, DomainError) else " ".join(str(error).split())
            raise CommandError(f"Not finished: {why}", returncode=2) from None
        known = f"{listed - new:,} known before{', worked on again' if again else ''}"
        self.stdout.write(f"{listed:,} events since {since:%Y-%m-%d %H:%M} UTC: {new:,} new, {known}")


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
