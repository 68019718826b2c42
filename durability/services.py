"""What the apps above ask of durability: publish, run sagas, decide over what is stuck."""

import random
import time
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from durability import doorbell, engine, keys, outbox, registry, retention, subscriptions
from durability.errors import ReasonMissing
from durability.models import Delivery, Heartbeat, SagaRun, SagaStep
from durability.types import Answer, Claimed, Event, Fingerprint, Lane, Lease
from foundation.errors import IllegalTransition
from foundation.redis import Command


def publish(event: Event) -> int:
    """Write an event to the outbox in the caller's transaction. Returns the message's id."""
    return outbox.publish(event)


def publish_many(events: Sequence[Event]) -> list[int]:
    """The same for many events in one statement. Returns the messages' ids, in the order of the events."""
    return outbox.publish_many(events)


def start_saga(recipe: str, *, key: str, subject: str = "", payload: Mapping[str, Any] | None = None) -> None:
    """Begin a saga in the caller's transaction, once per recipe and key; a worker runs it after the commit."""
    engine.start(registry.latest_recipe(recipe), key=key, subject=subject, payload=payload or {}, hold=False)


def hold_saga(recipe: str, *, key: str, subject: str = "", payload: Mapping[str, Any] | None = None) -> Lease | None:
    """Begin a saga and keep its lease, for a caller that goes on with it right after its commit.

    None where the run exists already: then `resume_saga` may take it over.
    """
    lease, is_new = engine.start(
        registry.latest_recipe(recipe), key=key, subject=subject, payload=payload or {}, hold=True
    )
    return lease if is_new else None


# --- The same as records, for a statement of an app above that writes them together with its own rows -----------------


def claim_record(claim: Fingerprint, *, subject: str, answer: Answer | None) -> dict[str, Any]:
    """A key as the SQL function `durability_claim_key` takes it, with its answer where that is final already."""
    return keys.record(claim, subject=subject, answer=answer)


def saga_record(
    recipe: str, *, key: str, payload: Mapping[str, Any], hold: bool
) -> tuple[dict[str, Any], Lease | None]:
    """A saga as `durability_begin_saga` takes it, and with `hold` the lease that its caller then has."""
    row = engine.record(registry.latest_recipe(recipe), key=key, subject="", payload=payload, hold=hold)
    return row, Lease(UUID(row["id"]), 1) if hold else None


def news_record(events: Sequence[Event], *, kinds: Sequence[type[Event]] = ()) -> dict[str, Any]:
    """Events as `durability_publish` takes them, and who listens; `kinds` are those that the statement itself adds."""
    return outbox.record(events, kinds=kinds)


def wakings(*, saga: Mapping[str, Any], news: Mapping[str, Any]) -> list[Command]:
    """What `start_saga` and `publish` do themselves: the commands that wake whoever works on these records."""
    bells = outbox.bells(news) if saga["held"] else [Lane.OUTSIDE if saga["outside"] else Lane.OWN, *outbox.bells(news)]
    return [doorbell.ringing(bell) for bell in dict.fromkeys(bells)]


def used_key(claim: Fingerprint) -> Claimed:
    """What a key stands for that turned out to be used. Raises IdempotencyKeyReused, IdempotencyKeyInUse."""
    return keys.used_before(claim)


def earlier_use(claim: Fingerprint) -> Claimed | None:
    """The same for a request that is about to be refused: a retry is answered as the first was, whatever is true by now.

    Waits for a twin that is at it; None where the key is free. Outside of transactions. Raises IdempotencyKeyReused.
    """
    return keys.earlier(claim)


def advance_saga(lease: Lease) -> None:
    """Work on a held run until it is finished or has to wait. Belongs outside of any transaction."""
    run = engine.load(lease)
    if run:
        engine.advance(run)


def resume_saga(recipe: str, *, key: str) -> None:
    """Go on with a run that nobody works on at the moment; does nothing for one that is held or finished."""
    run = engine.take(recipe, key=key)
    if run:
        engine.advance(run)


def work(lane: Lane) -> int:
    """Do what is due in a lane, deliveries and sagas in turn. Returns how much was taken up.

    After WORK_FOR_S nothing more is begun: it rings for another worker and ends, so that the queue's other tasks get
    their turn, and so that it is never killed for many things that each kept their time limit.
    """
    until = time.monotonic() + settings.WORK_FOR_S
    turns = [outbox.deliver_batch, engine.work]
    random.shuffle(turns)  # where the first is always slow, the other comes first in every second task
    done, empty = 0, 0
    for turn in cycle(turns):
        taken = turn(lane, until=until)
        done += taken
        empty = 0 if taken else empty + 1
        if empty == len(turns):
            break
        if taken and time.monotonic() > until:
            doorbell.ring(bell=lane)
            break
    return done


def retry_delivery(*, delivery_id: int, by: str) -> None:
    """An operator's retry: a parked delivery gets a fresh set of attempts. Raises IllegalTransition."""
    with transaction.atomic():
        moved = Delivery.objects.filter(pk=delivery_id, state=Delivery.State.PARKED).update(
            state=Delivery.State.PENDING, attempts=0, available_at=Now(), resolved_by=by
        )
        if not moved:
            raise IllegalTransition("Only a parked delivery can be retried; this one is not parked any more.")
        _let_go_on(delivery_id)


def skip_delivery(*, delivery_id: int, by: str, reason: str) -> None:
    """An operator's decision that a parked delivery shall never happen. Raises ReasonMissing, IllegalTransition."""
    if not reason.strip():
        raise ReasonMissing(param="reason")
    with transaction.atomic():
        moved = Delivery.objects.filter(pk=delivery_id, state=Delivery.State.PARKED).update(
            state=Delivery.State.SKIPPED, resolved_by=by, resolved_reason=reason.strip(), done_at=Now()
        )
        if not moved:
            raise IllegalTransition("Only a parked delivery can be skipped; this one is not parked any more.")
        _let_go_on(delivery_id)


def _let_go_on(delivery_id: int) -> None:
    """What waited for a person is due from now on: the delivery and those behind it, as far as they are open."""
    one = Delivery.objects.get(pk=delivery_id)
    open_ones = Delivery.objects.filter(handler=one.handler, key=one.key, state__in=["pending", "running"])
    open_ones.update(due_since=Now())
    doorbell.ring_after_commit(Lane.OUTSIDE if one.outside else Lane.OWN)


def retry_saga(*, run_id: UUID, by: str) -> None:
    """An operator's retry: the run is due at once, and a failed compensation is tried again. Raises IllegalTransition."""
    with transaction.atomic():
        run = _lock_unfinished(run_id)
        state = run.state
        if state == SagaRun.State.COMPENSATION_FAILED:
            state = SagaRun.State.COMPENSATING
        SagaRun.objects.filter(pk=run.pk).update(state=state, attempts=0, deaths=0, available_at=Now())
        SagaStep.objects.filter(run=run, index=run.current_step).update(by=by)
        _ring_both()


def skip_saga_step(*, run_id: UUID, by: str, reason: str) -> None:
    """An operator's decision that the step a saga stands at shall not happen; of one that compensates, its undo.

    Whoever works on it at this moment loses the lease. Raises ReasonMissing, IllegalTransition, RecipeNotDeployed, and
    what the step's recipe has against it.
    """
    with transaction.atomic():
        run = _take_from_workers(run_id, reason)
        engine.skip(run, by=by, reason=reason.strip())
        _ring_both()


def compensate_saga(*, run_id: UUID, by: str, reason: str) -> None:
    """An operator's decision that a running saga shall be undone. Raises ReasonMissing, IllegalTransition."""
    with transaction.atomic():
        run = _take_from_workers(run_id, reason)
        if run.state != SagaRun.State.RUNNING:
            raise IllegalTransition(f"This saga is {run.state}: it is being undone already.")
        engine.turn_back(run, by=by, reason=reason.strip())
        _ring_both()


def _take_from_workers(run_id: UUID, reason: str) -> SagaRun:
    if not reason.strip():
        raise ReasonMissing(param="reason")
    run = _lock_unfinished(run_id)
    run.lease_version += 1
    SagaRun.objects.filter(pk=run.pk).update(lease_version=run.lease_version)
    return run


def _lock_unfinished(run_id: UUID) -> SagaRun:
    run = SagaRun.objects.select_for_update().get(pk=run_id)
    if run.state in (SagaRun.State.COMPLETED, SagaRun.State.COMPENSATED):
        raise IllegalTransition(f"This saga is {run.state}: nothing is left to decide.")
    return run


def _ring_both() -> None:
    for lane in Lane:  # wherever its next step belongs
        doorbell.ring_after_commit(lane)


def subscribe_handlers() -> None:
    """Make the deliveries that a publisher did not, because it ran code that did not know the handler.

    And tell a person of what waits for a handler or recipe that nobody knows.
    """
    subscriptions.catch_up()
    outbox.park_unknown()
    engine.tell_unknown()


def clean_up() -> dict[str, int]:
    """Delete what nobody needs any more, in bounded batches. Returns what was deleted, by table."""
    return retention.clean_up()


def seen(*names: str) -> None:
    """Write down that some processes are alive: `beat`, `worker.<queue>`."""
    Heartbeat.objects.bulk_create(
        [Heartbeat(name=name, seen_at=Now()) for name in sorted(names)],
        update_conflicts=True,
        unique_fields=["name"],
        update_fields=["seen_at"],
    )
