"""The outbox: publishing, then the drain to handlers, and the mirror to the stream."""

from dataclasses import dataclass
from typing import ClassVar

from django.db import transaction

from benchmarks.harness import compare
from durability import services, stream
from durability.models import Message
from durability.registry import handles
from durability.types import Event, Lane, Since


@dataclass(frozen=True, slots=True)
class Ticked(Event):
    name: ClassVar[str] = "benchmarks.ticked.v1"
    number: int

    @property
    def key(self) -> str:
        return str(self.number)


@handles(Ticked, name="benchmarks.nothing", since=Since.DEPLOYMENT)
def nothing(event: Ticked) -> None:
    """The cost of a delivery itself."""


def run() -> None:
    def publish(times: int) -> None:
        for number in range(times):
            with transaction.atomic():
                services.publish(Ticked(number))

    def deliver(times: int) -> None:
        services.work(Lane.OWN)

    def mirror(times: int) -> None:
        while stream.mirror_batch():
            pass

    Message.objects.update(state=Message.State.PUBLISHED)
    compare("outbox", operations=500, publish=publish, deliver=deliver, mirror_to_the_stream=mirror)
