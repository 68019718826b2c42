"""What dashboards, metrics, health and the pages of an object read."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Count, Min, QuerySet
from django.db.models.functions import Now

from durability.models import Delivery, Heartbeat, Message, SagaRun
from foundation.database import database_now


@dataclass(frozen=True, slots=True)
class Backlog:
    """How the outbox stands: the age of its oldest open delivery in seconds, and what is parked, by handler."""

    oldest_s: float
    parked: dict[str, int]


def backlog() -> Backlog:
    oldest = Delivery.objects.filter(state__in=["pending", "running"]).aggregate(at=Min("message__created_at"))["at"]
    parked = Delivery.objects.filter(state="parked").values_list("handler").annotate(count=Count("pk"))
    return Backlog(oldest_s=_age_s(oldest), parked=dict(parked))


def beat_age_s() -> float | None:
    """Seconds since beat was last seen; None if never."""
    seen = Heartbeat.objects.filter(name="beat").values_list("seen_at", flat=True).first()
    return None if seen is None else _age_s(seen)


def worker_ages_s() -> dict[str, float]:
    """Queue → seconds since one of its workers was last seen; queues that were never served are not there."""
    now = database_now()
    seen = Heartbeat.objects.filter(name__startswith="worker.").values_list("name", "seen_at")
    return {name.removeprefix("worker."): max(0.0, (now - at).total_seconds()) for name, at in seen}


def saga_counts() -> dict[tuple[str, str], int]:
    """(recipe, state) → how many unfinished or failed runs."""
    rows = (
        SagaRun.objects.filter(state__in=["running", "compensating", "compensation_failed"])
        .values_list("recipe", "state")
        .annotate(count=Count("pk"))
    )
    return {(recipe, state): count for recipe, state, count in rows}


def stuck_sagas() -> QuerySet[SagaRun]:
    """Runs that a person should look at: a failed compensation, or many attempts without success."""
    failed = SagaRun.objects.filter(state=SagaRun.State.COMPENSATION_FAILED)
    slow = SagaRun.objects.filter(
        state__in=["running", "compensating"], attempts__gte=settings.SAGA_STUCK_AFTER_ATTEMPTS
    )
    return (failed | slow).order_by("created_at")


def saga_is_finished(recipe: str, *, key: str) -> bool:
    return SagaRun.objects.filter(recipe=recipe, key=key, finished_at__isnull=False).exists()


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


def _age_s(moment: datetime | None) -> float:
    return 0.0 if moment is None else max(0.0, (database_now() - moment).total_seconds())
