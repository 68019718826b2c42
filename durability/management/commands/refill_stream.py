"""Write the messages that are still kept to the Redis stream again, after Redis was lost.

    manage.py refill_stream
    manage.py refill_stream --since 2026-11-19T08:00
    manage.py refill_stream --from-id 120000

Consumers get them with the ids that they had, oldest first; what is published meanwhile follows after them. Exit codes: 0
done, 2 it could not run to the end (the line says from where to go on).
"""

import sys
from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from redis.exceptions import RedisError
from rich.progress import Progress

from durability import stream
from durability.errors import LeaseLost
from foundation.errors import DomainError

_BETWEEN_LINES = 100_000  # messages; in a pipe, where there is no bar to watch


class Command(BaseCommand):
    """Reads durability_message, writes the stream."""

    help = "Write the messages that are still kept to the Redis stream again, oldest first"

    def add_arguments(self, parser: ArgumentParser) -> None:
        start = parser.add_mutually_exclusive_group()
        start.add_argument("--from-id", metavar="N", type=int, default=0, help="the first message's id")
        start.add_argument("--since", metavar="TIME", type=_moment, help="ISO 8601, UTC where it names no zone")

    def handle(self, *, from_id: int, since: datetime | None, **_: Any) -> None:
        first = from_id if since is None else stream.first_since(since)
        if first is None:
            self.stdout.write("No message is that young.")
            return
        reached, said = first, 0
        with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
            task = bar.add_task("Messages")

            def tell(written: int, at: int, to: int) -> None:
                nonlocal reached, said
                reached = at + 1
                bar.update(task, completed=at - first, total=to - first)
                if not sys.stdout.isatty() and written >= said + _BETWEEN_LINES:
                    said = written
                    self.stdout.write(f"{written:,} messages, up to id {at} of {to}")

            try:
                written = stream.refill(from_id=first, tell=tell)
            except (DomainError, LeaseLost, RedisError, DatabaseError) as error:
                why = " ".join(str(error).split()) or "another worker took the stream over"
                raise CommandError(f"Not finished: {why}. Go on with --from-id {reached}", returncode=2) from None
        self.stdout.write(f"{written:,} messages written again")


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
