"""A domain of its own for durability's tests: jars of coins, kept in rows of a table that durability has anyway."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from django.db.models.functions import Now

from durability.models import Heartbeat
from durability.registry import handles, register
from durability.types import Call, Context, Event, Outcome, Saga, Since, Step, Succeeded
from foundation.errors import DomainError


@dataclass(frozen=True, slots=True)
class CoinDropped(Event):
    name: ClassVar[str] = "toys.coin_dropped.v1"
    jar: str
    coin: str

    @property
    def key(self) -> str:
        return self.jar


def write(mark: str) -> None:
    """A visible effect in the database."""
    Heartbeat.objects.create(name=mark, seen_at=Now())


def marks() -> list[str]:
    return sorted(Heartbeat.objects.values_list("name", flat=True))


def nothing(_: Any) -> None:
    pass


class Script:
    """What the toys do next; a test sets it, and `reset` takes it back."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.on_coin: Callable[[CoinDropped], None] = nothing
        self.outside: Callable[[CoinDropped], None] = nothing
        self.call: Callable[[Context], Outcome] = lambda context: Succeeded()
        self.on_record: Callable[[Context], None] = nothing
        self.before_last: Callable[[Context], None] = nothing
        self.on_undo: Callable[[Context], None] = nothing
        self.said: list[str] = []


script = Script()


@handles(CoinDropped, name="toys.count", since=Since.OLDEST_KEPT)
def count(event: CoinDropped) -> None:
    write(f"counted:{event.coin}")
    script.on_coin(event)


@handles(CoinDropped, name="toys.tell", since=Since.DEPLOYMENT, outside=True)
def tell(event: CoinDropped) -> None:
    script.said.append(event.coin)
    script.outside(event)


def first(context: Context) -> None:
    write(f"first:{context.key}")


def undo_first(context: Context) -> None:
    script.on_undo(context)
    write(f"undone first:{context.key}")


def call(context: Context) -> Outcome:
    return script.call(context)


def record(context: Context, outcome: Outcome) -> None:
    script.on_record(context)
    write(f"{type(outcome).__name__}:{context.key}:{context.attempt}")


def last(context: Context) -> None:
    script.before_last(context)
    write(f"last:{context.key}")


def undo_last(context: Context) -> None:
    write(f"undone last:{context.key}")


class Definite(DomainError):
    """Never."""


TOY = register(
    Saga(
        "toys.toy",
        version=1,
        steps=(
            Step("first", do=first, undo=undo_first),
            Call("call", do=call, record=record, undo=None),
            Step("last", do=last, undo=undo_last),
        ),
    )
)
