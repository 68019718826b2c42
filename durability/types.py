"""The vocabulary of durability: events, what a handler is, the outcomes of a call, the recipe of a saga."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import Enum, StrEnum
from typing import Any, ClassVar, Self
from uuid import UUID

from foundation.errors import DomainError


@dataclass(frozen=True, slots=True)
class Event:
    """News of a committed change: a versioned name, a key that orders it, and a flat payload of ids and amounts.

    A subclass is a frozen dataclass with JSON-able fields, a class variable `name` such as
    `payments.payment_captured.v1`, and the property `key`: deliveries of one handler and key keep their order.
    """

    name: ClassVar[str] = ""

    @property
    def key(self) -> str:
        raise NotImplementedError

    def payload(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Self:
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in payload.items() if name in known})


class Lane(StrEnum):
    """Who does a piece of work: each lane has a queue and workers of its own, so that neither waits for the other."""

    OWN = "own"  # our own database only: milliseconds
    OUTSIDE = "outside"  # leaves the process, and may wait for whoever is called


class Since(Enum):
    """From where a handler starts that is added to a system with a past."""

    OLDEST_KEPT = "every message that is still kept"
    DEPLOYMENT = "what is published after its first deployment"


@dataclass(frozen=True, slots=True)
class Handler:
    """Reacts to one event.

    `outside` says that it leaves the process (mail, HTTP) and so runs in no transaction. `aside` says that nothing may
    ever wait for it, and names whom it depends on ("mail"): it comes last in the outside lane, even where it only
    writes our own database, and all handlers with one such name share one share of the workers' time.
    """

    name: str
    event: type[Event]
    run: Callable[[Any], None]
    since: Since
    outside: bool
    aside: str = ""

    @property
    def lane(self) -> Lane:
        return Lane.OUTSIDE if self.outside or self.aside else Lane.OWN


# --- What a call to the outside ended in ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The other side did it; `value` is what it answered."""

    value: Any = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The other side will do it; later news starts its own handler."""

    value: Any = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The other side will never do it: a definite failure. Earlier steps are undone."""

    code: str
    message: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody can say whether it happened (a timeout, a reset, a 500). Not a failure: asked again under the same key."""

    reason: str


Outcome = Succeeded | Accepted | Refused | Unknown


# --- The recipe of a saga ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Context:
    """What a step is given: the run's key (usually a public number), its payload, and which attempt this is, from 1."""

    key: str
    payload: Mapping[str, Any]
    attempt: int


@dataclass(frozen=True, slots=True)
class Step:
    """A change of our own database: its effect commits together with the saga's progress, so it happens once.

    `do` raises a DomainError for a definite failure, which undoes the saga; any other error is tried again. `do` is
    None where the transaction that starts the run does the work itself.

    `undo` takes the effect back. It also runs for the step that failed, so it must accept that `do` never happened.

    `may_skip` is asked where a person wants to skip the step, or its undo: a DomainError refuses, and says what to do
    instead. None: that person's reason is enough.
    """

    name: str
    do: Callable[[Context], None] | None
    undo: Callable[[Context], None] | None
    may_skip: Callable[[Context], None] | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A call to the outside under one stable id: intent committed, called in no transaction, outcome committed.

    `do` may run several times and must send the same id each time. `record` commits the outcome together with the
    saga's progress, whatever the outcome is.
    """

    name: str
    do: Callable[[Context], Outcome]
    record: Callable[[Context, Outcome], None]
    undo: Callable[[Context], None] | None


@dataclass(frozen=True, slots=True)
class Saga:
    """A recipe: steps from top to bottom. Running sagas stay with the version that they began with."""

    name: str
    version: int
    steps: tuple[Step | Call, ...]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a run until the lease ends."""

    run_id: UUID
    version: int


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """What a request with a key began came to nothing: it is refused, and its key is given back."""

    refusal: DomainError


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What an idempotency key stands for: whose it is, and which request."""

    caller: UUID
    key: str
    method: str
    path: str
    body_hash: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer that may be stored and replayed: it never holds a secret.

    One that is not `final` is given but not stored: a retry with the same key goes on, and answers anew.
    """

    status: int
    body: dict[str, Any]
    final: bool = True


@dataclass(frozen=True, slots=True)
class Claimed:
    """A key that this request has taken (`is_new`), or one that was used before.

    `subject` is the object that it made, to go on with; `answer` is None until a final one is stored.
    """

    id: int
    is_new: bool
    subject: str
    answer: Answer | None
