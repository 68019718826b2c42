"""What the apps above ask of durability: publish, run sagas, decide over what is stuck."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from durability import doorbell, engine, outbox, registry
from durability.errors import ReasonMissing
from durability.models import Delivery, Heartbeat, SagaRun, SagaStep
from durability.types import Event, Lease
from foundation.errors import IllegalTransition


def publish(event: Event) -> int:
    """Write an event to the outbox in the caller's transaction. Returns the message's id."""
    return outbox.publish(event)


def start_saga(recipe: str, *, key: str, subject: str = "", payload: Mapping[str, Any] | None = None) -> UUID:
    """Begin a saga in the caller's transaction, once per recipe and key; a worker runs it after the commit."""
    run, _ = engine.start(registry.latest_recipe(recipe), key=key, subject=subject, payload=payload or {}, hold=False)
    return run.pk


def hold_saga(recipe: str, *, key: str, subject: str = "", payload: Mapping[str, Any] | None = None) -> Lease | None:
    """Begin a saga and keep its lease, for a caller that goes on with it right after its commit.

    None where the run exists already: then `resume_saga` may take it over.
    """
    run, is_new = engine.start(
        registry.latest_recipe(recipe), key=key, subject=subject, payload=payload or {}, hold=True
    )
    return Lease(run.pk, run.lease_version) if is_new else None


def advance_saga(lease: Lease) -> None:
    """Work on a held run until it is finished or has to wait. Belongs outside of any transaction."""
    engine.advance(lease)


def resume_saga(recipe: str, *, key: str) -> None:
    """Go on with a run that nobody works on at the moment; does nothing for one that is held or finished."""
    run_id = SagaRun.objects.filter(recipe=recipe, key=key).values_list("pk", flat=True).first()
    lease = engine.claim(run_id) if run_id else None
    if lease:
        engine.advance(lease)


def resume_sagas() -> int:
    """Work on every run that is due. Returns how many were taken up."""
    return engine.resume_due(limit=settings.SAGA_BATCH)


def retry_delivery(*, delivery_id: int, by: str) -> None:
    """An operator's retry: a parked delivery gets a fresh set of attempts. Raises IllegalTransition."""
    moved = Delivery.objects.filter(pk=delivery_id, state=Delivery.State.PARKED).update(
        state=Delivery.State.PENDING, attempts=0, available_at=Now(), resolved_by=by
    )
    if not moved:
        raise IllegalTransition("Only a parked delivery can be retried; this one is not parked any more.")
    doorbell.ring(bell="outbox")


def skip_delivery(*, delivery_id: int, by: str, reason: str) -> None:
    """An operator's decision that a parked delivery shall never happen. Raises ReasonMissing, IllegalTransition."""
    if not reason.strip():
        raise ReasonMissing(param="reason")
    moved = Delivery.objects.filter(pk=delivery_id, state=Delivery.State.PARKED).update(
        state=Delivery.State.SKIPPED, resolved_by=by, resolved_reason=reason.strip(), done_at=Now()
    )
    if not moved:
        raise IllegalTransition("Only a parked delivery can be skipped; this one is not parked any more.")
    doorbell.ring(bell="outbox")


def retry_saga(*, run_id: UUID, by: str) -> None:
    """An operator's retry: the run is due at once, and a failed compensation is tried again. Raises IllegalTransition."""
    with transaction.atomic():
        run = SagaRun.objects.select_for_update().get(pk=run_id)
        if run.state == SagaRun.State.COMPENSATION_FAILED:
            run.state = SagaRun.State.COMPENSATING
        elif run.state not in (SagaRun.State.RUNNING, SagaRun.State.COMPENSATING):
            raise IllegalTransition(f"This saga is {run.state}: there is nothing to retry.")
        SagaRun.objects.filter(pk=run.pk).update(state=run.state, attempts=0, available_at=Now())
        SagaStep.objects.filter(run=run, index=run.current_step).update(by=by)
        doorbell.ring_after_commit("sagas")


def beat_seen() -> None:
    """Write down that beat and a worker are alive."""
    Heartbeat.objects.bulk_create(
        [Heartbeat(name="beat", seen_at=Now())],
        update_conflicts=True,
        unique_fields=["name"],
        update_fields=["seen_at"],
    )
