"""What dashboards, metrics, health and the pages of an object read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import (
    BooleanField,
    Count,
    DateTimeField,
    Exists,
    ExpressionWrapper,
    F,
    FloatField,
    Func,
    OuterRef,
    Q,
    QuerySet,
)
from django.db.models.functions import Extract, Now

from durability import registry
from durability.models import Delivery, Heartbeat, Message, SagaRun
from durability.types import Lane

_LOOKED_AT = 100


@dataclass(frozen=True, slots=True)
class Backlog:
    """How the outbox stands: for how many seconds its oldest open delivery waits, and what is parked, by handler."""

    oldest_s: float
    parked: dict[str, int]


def backlog() -> Backlog:
    parked = {handler: count for handler, count in parked_counts().items() if count}
    return Backlog(oldest_s=oldest_open_s(), parked=parked)


def oldest_open_s() -> float:
    """Since when the oldest delivery waits that somebody could be at; 0 where there is none.

    What waits behind a parked delivery of its key waits for a person: the parked one tells of it. It waits since it was
    written, or let go on by a person: its message may be much older, where a handler was added later.
    """
    one, *others = [*_first_open(outside=False), *_first_open(outside=True)]
    return max([0.0, *(float(age_s) for age_s in one.union(*others, all=True))])


def _first_open(*, outside: bool) -> list[QuerySet[Delivery, Any]]:
    """Ages of the first entries of a lane's index: of those that were never tried, and of those that were.

    Ids rise with time but for what a person let go on, so these are enough, however long the backlog is.
    """
    parked_before = Delivery.objects.filter(
        state="parked", handler=OuterRef("handler"), key=OuterRef("key"), message__lt=OuterRef("message")
    )
    open_ones = Delivery.objects.filter(~Exists(parked_before), state__in=["pending", "running"], outside=outside)
    in_turn = open_ones.order_by(ExpressionWrapper(Q(attempts__gt=0), output_field=BooleanField()), "pk")
    tried = open_ones.filter(attempts__gt=0).order_by("pk")
    return [rows.values_list(_age_of("due_since"), flat=True)[:_LOOKED_AT] for rows in (in_turn, tried)]


def oldest_unmirrored_s() -> float:
    """Age of the oldest message that is not in the stream yet; 0 where there is none."""
    waiting = Message.objects.filter(state="pending").order_by("pk")
    age_s = waiting.annotate(age=_age_of("created_at")).values_list("age", flat=True).first()
    return max(0.0, age_s or 0.0)


def parked_counts() -> dict[str, int]:
    """handler → how many of its deliveries are parked; every known handler is there, so that a gauge falls to 0."""
    rows = Delivery.objects.filter(state="parked").values_list("handler").annotate(count=Count("pk")).order_by()
    return dict.fromkeys((handler.name for handler in registry.handlers()), 0) | dict(rows)


def beat_age_s() -> float | None:
    """Seconds since beat was last seen; None if never."""
    age_s = Heartbeat.objects.filter(name="beat").values_list(_age_of("seen_at"), flat=True).first()
    return None if age_s is None else max(0.0, age_s)


def worker_ages_s() -> dict[str, float]:
    """Queue → seconds since one of its workers was last seen; queues that were never served are not there."""
    seen = Heartbeat.objects.filter(name__startswith="worker.").values_list("name", _age_of("seen_at"))
    return {name.removeprefix("worker."): max(0.0, age_s) for name, age_s in seen}


def saga_counts() -> dict[tuple[str, str], int]:
    """(recipe, state) → how many unfinished or failed runs; 0 for every state of every known recipe."""
    rows = (
        # In two halves, because each has a partial index: finished runs, of which there are millions, are never read.
        SagaRun.objects.filter(Q(state__in=["running", "compensating"]) | Q(state="compensation_failed"))
        .values_list("recipe", "state")
        .annotate(count=Count("pk"))
        .order_by()
    )
    states = ("running", "compensating", "compensation_failed")
    none = {(saga.name, state): 0 for saga in registry.recipes() for state in states}
    return none | {(recipe, state): count for recipe, state, count in rows}


def oldest_due_saga_s() -> dict[str, float]:
    """lane → for how long the run that is overdue most has been due without a worker taking it; 0 where none is."""
    return {str(lane): _oldest_due_saga_s(lane) for lane in Lane}


def _oldest_due_saga_s(lane: Lane) -> float:
    unfinished = SagaRun.objects.filter(state__in=["running", "compensating"], outside=lane is Lane.OUTSIDE)
    first = unfinished.order_by("available_at").values_list(_age_of("available_at"), flat=True).first()
    return max(0.0, first or 0.0)  # held, or resting until its next attempt: due in the future


def slow_saga_counts() -> dict[str, int]:
    """recipe → how many runs have been tried for long without success, and still are; 0 for every known recipe."""
    rows = (
        SagaRun.objects.filter(state__in=["running", "compensating"], attempts__gte=settings.SAGA_STUCK_AFTER_ATTEMPTS)
        .values_list("recipe")
        .annotate(count=Count("pk"))
        .order_by()
    )
    return dict.fromkeys((saga.name for saga in registry.recipes()), 0) | dict(rows)


def stuck_sagas() -> QuerySet[SagaRun]:
    """Runs that a person should look at: a failed compensation, or many attempts without success."""
    failed = SagaRun.objects.filter(state=SagaRun.State.COMPENSATION_FAILED)
    slow = SagaRun.objects.filter(
        state__in=["running", "compensating"], attempts__gte=settings.SAGA_STUCK_AFTER_ATTEMPTS
    )
    return (failed | slow).order_by("created_at")


def saga_is_finished(recipe: str, *, key: str) -> bool:
    return SagaRun.objects.filter(recipe=recipe, key=key, finished_at__isnull=False).exists()


def saga_is_open(recipe: str, *, key: str) -> bool:
    """Whether a run has still something to do, or to undo. A finished one may be gone: sagas are cleaned up, orders are not."""
    return SagaRun.objects.filter(recipe=recipe, key=key, finished_at__isnull=True).exists()


def saga_is_held(recipe: str, *, key: str) -> bool:
    """Whether a worker is at a run right now, or lets it rest until its next attempt."""
    return SagaRun.objects.filter(
        recipe=recipe, key=key, state__in=["running", "compensating"], available_at__gt=Now()
    ).exists()


def story_of(keys: list[str]) -> dict[str, Any]:
    """Everything that happened durably about some objects: `{"messages": […], "sagas": […]}`, oldest first."""
    return {
        "messages": list(Message.objects.filter(key__in=keys).order_by("id").prefetch_related("deliveries")),
        "sagas": list(SagaRun.objects.filter(subject__in=keys).order_by("created_at").prefetch_related("steps")),
    }


def unhandled_keys(keys: Sequence[str]) -> set[str]:
    """Which of some keys have a message that a handler has yet to work on. A parked one waits for a person: not here."""
    waiting = Delivery.objects.filter(key__in=keys, state__in=["pending", "running"])
    return set(waiting.values_list("key", flat=True).distinct())


def _age_of(field: str) -> Any:
    """Seconds since a moment, by PostgreSQL's clock."""
    since = Func(function="clock_timestamp", output_field=DateTimeField()) - F(field)
    return ExpressionWrapper(Extract(since, "epoch"), output_field=FloatField())
