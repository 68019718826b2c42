"""The one Redis or Valkey client of this process. Redis saves work and wakes workers; losing it loses nothing."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from redis import Redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)


@cache
def client() -> Redis:
    """A thread-safe client with a small pool; connections are made on first use, so after a fork."""
    return Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=settings.REDIS_TIMEOUT_S,
        socket_connect_timeout=settings.REDIS_TIMEOUT_S,
        decode_responses=True,
    )


# --- What a transaction has to say to Redis ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Command:
    """A command and what is done with its answer. Of those with one name (`once`) a transaction sends the first."""

    parts: tuple[str | int | float, ...]
    then: Callable[[Any], object] = bool
    once: str = ""


def after_commit(*commands: Command) -> None:
    """Send these when the present transaction has committed, with all others of it in one round trip.

    Where Redis does not answer, or the process dies before, nobody says it: whatever depends on it has another way.
    """
    for _, hook, *_ in connection.run_on_commit:
        if isinstance(hook, _Telling):
            hook.add(commands)
            return
    transaction.on_commit(_Telling(commands), robust=True)


class _Telling:
    """The hook of one transaction. One that belongs to a savepoint that is rolled back goes with it."""

    def __init__(self, commands: tuple[Command, ...]) -> None:
        self._commands: dict[object, Command] = {}
        self.add(commands)

    def add(self, commands: tuple[Command, ...]) -> None:
        for command in commands:
            self._commands.setdefault(command.once or object(), command)

    def __call__(self) -> None:
        try:
            with client().pipeline(transaction=False) as pipeline:
                for command in self._commands.values():
                    pipeline.execute_command(*command.parts)  # type: ignore[no-untyped-call]
                answers = pipeline.execute()
        except RedisError as error:
            log.warning("Redis was not told of a commit: %s", error)
            return
        for command, answer in zip(self._commands.values(), answers, strict=True):
            command.then(answer)
