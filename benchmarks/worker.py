"""`celery -A benchmarks.worker`: a worker like the product's, with one handler that says when it began."""

import time
from dataclasses import dataclass
from typing import ClassVar

from config.celery import app
from durability.registry import handles
from durability.types import Event, Since

__all__ = ["app"]

BEGAN = "benchmarks:began"


@dataclass(frozen=True, slots=True)
class Woken(Event):
    name: ClassVar[str] = "benchmarks.woken.v1"
    number: int

    @property
    def key(self) -> str:
        return str(self.number)


@handles(Woken, name="benchmarks.wake", since=Since.DEPLOYMENT)
def wake(event: Woken) -> None:
    began_ns = time.monotonic_ns()  # one clock for all processes of a machine
    from foundation.redis import client

    client().rpush(BEGAN, f"{event.number}:{began_ns}")
