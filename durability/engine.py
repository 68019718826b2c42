"""Runs sagas: claims a run under a lease, does its steps, undoes them after a definite failure.

Every commit of a run carries the lease's version: a zombie that lost its lease commits nothing.
"""

import logging
import traceback
from collections.abc import Mapping
from typing import Any, assert_never

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from durability import doorbell, registry
from durability.errors import LeaseLost
from durability.models import SagaRun, SagaStep
from durability.outbox import backoff_s
from durability.types import Accepted, Call, Context, Lease, Refused, Saga, Step, Succeeded, Unknown
from foundation.database import in_seconds
from foundation.errors import DomainError
from foundation.middleware import current_request_id, set_request_id

log = logging.getLogger(__name__)

_LONGEST_ERROR = 4_000
_MOST_UNDO_ATTEMPTS = 8  # then a person must look: compensation_failed


def start(saga: Saga, *, key: str, subject: str, payload: Mapping[str, Any], hold: bool) -> tuple[SagaRun, bool]:
    """Begin a run in the caller's transaction, once per recipe and key. Returns the run and whether it is new.

    Steps whose `do` is None were done by the caller in this very transaction. With `hold` the caller takes the lease
    and calls `advance` after its commit; without it a worker is woken.
    """
    if not connection.in_atomic_block:
        raise RuntimeError("a saga begins in the transaction of what it is about")
    request_id = current_request_id()
    done = 0
    while done < len(saga.steps) and isinstance(step := saga.steps[done], Step) and step.do is None:
        done += 1
    run = SagaRun(
        recipe=saga.name,
        version=saga.version,
        key=key,
        subject=subject or key,
        payload=dict(payload),
        request_id="" if request_id == "-" else request_id,
        current_step=done,
        attempts=1 if hold else 0,
        lease_version=1 if hold else 0,
        available_at=in_seconds(settings.SAGA_LEASE_S if hold else 0),
    )
    SagaRun.objects.bulk_create([run], ignore_conflicts=True)  # waits for a concurrent twin, then yields to it
    stored = SagaRun.objects.get(recipe=saga.name, key=key)
    if stored.pk != run.pk:
        return stored, False
    SagaStep.objects.bulk_create(
        SagaStep(run=run, index=index, name=saga.steps[index].name, state=SagaStep.State.DONE, finished_at=Now())
        for index in range(done)
    )
    if not hold:
        doorbell.ring_after_commit("sagas")
    return stored, True


def claim(run_id: Any) -> Lease | None:
    """Take one run that nobody holds. None if somebody does, or if it is finished or not yet due."""
    due = SagaRun.objects.filter(
        pk=run_id, state__in=[SagaRun.State.RUNNING, SagaRun.State.COMPENSATING], available_at__lte=Now()
    )
    taken = due.update(
        lease_version=F("lease_version") + 1,
        attempts=F("attempts") + 1,
        available_at=in_seconds(settings.SAGA_LEASE_S),
    )
    if not taken:
        return None
    return Lease(run_id, SagaRun.objects.values_list("lease_version", flat=True).get(pk=run_id))


def resume_due(*, limit: int) -> int:
    """Work on runs that are due: new ones, ones whose backoff ended, ones whose worker died. Returns how many."""
    due = list(
        SagaRun.objects.filter(state__in=[SagaRun.State.RUNNING, SagaRun.State.COMPENSATING], available_at__lte=Now())
        .order_by("available_at")
        .values_list("pk", flat=True)[:limit]
    )
    for run_id in due:
        lease = claim(run_id)
        if lease:
            advance(lease)
    return len(due)


def advance(lease: Lease) -> None:
    """Work on a held run until it is finished, has to wait, or is somebody else's."""
    try:
        while _advance_once(lease):
            pass
    except LeaseLost:
        log.info("saga %s was taken over by another worker", lease.run_id)


def _advance_once(lease: Lease) -> bool:
    """One step. True if there is more to do right now."""
    run = SagaRun.objects.filter(pk=lease.run_id, lease_version=lease.version).first()
    if run is None:
        raise LeaseLost
    set_request_id(run.request_id)
    saga = registry.recipe(run.recipe, run.version)
    if saga is None:
        _wait(lease, run, f"No recipe {run.recipe} version {run.version} is deployed.")
        return False
    if run.state == SagaRun.State.COMPENSATING:
        return _undo(lease, run, saga)
    if run.state != SagaRun.State.RUNNING:
        return False
    if run.current_step >= len(saga.steps):
        _move(lease, state=SagaRun.State.COMPLETED, finished_at=Now(), error="")
        return False
    step = saga.steps[run.current_step]
    context = Context(key=run.key, payload=run.payload, attempt=max(run.attempts, 1))
    try:
        return (
            _do_step(lease, run, saga, step, context)
            if isinstance(step, Step)
            else _do_call(lease, run, saga, step, context)
        )
    except LeaseLost:
        raise
    except DomainError as refusal:
        log.warning("saga %s %s: %s was refused: %s", run.recipe, run.key, step.name, refusal.detail)
        with transaction.atomic(durable=True):
            _note(run, step.name, SagaStep.State.FAILED, f"{refusal.code}: {refusal.detail}")
            _turn_back(lease, f"{step.name}: {refusal.detail}")
        return True
    except Exception:
        log.exception("saga %s %s: %s failed, attempt %s", run.recipe, run.key, step.name, run.attempts)
        _wait(lease, run, traceback.format_exc()[-_LONGEST_ERROR:])
        return False


def _do_step(lease: Lease, run: SagaRun, saga: Saga, step: Step, context: Context) -> bool:
    with transaction.atomic(durable=True):
        more = _progress(lease, run, saga, step)
        if step.do is not None:
            step.do(context)
    return more


def _do_call(lease: Lease, run: SagaRun, saga: Saga, call: Call, context: Context) -> bool:
    with transaction.atomic(durable=True):
        _move(lease, available_at=in_seconds(settings.SAGA_LEASE_S))
        _note(run, call.name, SagaStep.State.CALLING, "")
    outcome = call.do(context)
    with transaction.atomic(durable=True):
        match outcome:
            case Succeeded() | Accepted():
                more = _progress(lease, run, saga, call)
            case Refused():
                _note(run, call.name, SagaStep.State.FAILED, f"{outcome.code}: {outcome.message}")
                _turn_back(lease, f"{call.name}: {outcome.message}")
                more = True
            case Unknown():
                _wait(lease, run, f"{call.name}: {outcome.reason}")
                more = False
            case _:
                assert_never(outcome)
        call.record(context, outcome)
    return more


def _undo(lease: Lease, run: SagaRun, saga: Saga) -> bool:
    """Undo the step that the run stands on, then go one back."""
    step = saga.steps[run.current_step]
    context = Context(key=run.key, payload=run.payload, attempt=max(run.attempts, 1))
    last = run.current_step == 0
    try:
        with transaction.atomic(durable=True):
            _move(
                lease,
                attempts=1,
                available_at=in_seconds(settings.SAGA_LEASE_S),
                **(
                    {"state": SagaRun.State.COMPENSATED, "finished_at": Now()}
                    if last
                    else {"current_step": run.current_step - 1}
                ),
            )
            if step.undo is not None:
                step.undo(context)
                _note(run, step.name, SagaStep.State.UNDONE, "")
    except LeaseLost:
        raise
    except Exception:  # noqa: BLE001  whatever it is, the run waits or a person looks
        error = traceback.format_exc()[-_LONGEST_ERROR:]
        if run.attempts >= _MOST_UNDO_ATTEMPTS:
            log.error("saga %s %s: compensation failed, a person must look:\n%s", run.recipe, run.key, error)
            _move(lease, state=SagaRun.State.COMPENSATION_FAILED, error=error)
        else:
            log.warning("saga %s %s: undoing %s failed, attempt %s", run.recipe, run.key, step.name, run.attempts)
            _wait(lease, run, error)
        return False
    return not last


def _progress(lease: Lease, run: SagaRun, saga: Saga, step: Step | Call) -> bool:
    following = run.current_step + 1
    finished = following == len(saga.steps)
    _move(
        lease,
        current_step=following,
        attempts=0 if finished else 1,
        error="",
        available_at=in_seconds(settings.SAGA_LEASE_S),
        **({"state": SagaRun.State.COMPLETED, "finished_at": Now()} if finished else {}),
    )
    _note(run, step.name, SagaStep.State.DONE, "")
    return not finished


def _turn_back(lease: Lease, error: str) -> None:
    _move(
        lease,
        state=SagaRun.State.COMPENSATING,
        attempts=1,
        error=error,
        available_at=in_seconds(settings.SAGA_LEASE_S),
    )


def _wait(lease: Lease, run: SagaRun, error: str) -> None:
    """Give the run back until its backoff ends. A transient fault is tried for ever: money may hang on it."""
    pause_s = backoff_s(
        max(run.attempts, 1), first_s=settings.SAGA_BACKOFF_FIRST_S, longest_s=settings.SAGA_BACKOFF_LONGEST_S
    )
    _move(lease, available_at=in_seconds(pause_s), error=error)


def _move(lease: Lease, **values: Any) -> None:
    if not SagaRun.objects.filter(pk=lease.run_id, lease_version=lease.version).update(**values):
        raise LeaseLost


def _note(run: SagaRun, name: str, state: str, note: str) -> None:
    SagaStep.objects.bulk_create(
        [
            SagaStep(
                run=run,
                index=run.current_step,
                name=name,
                state=state,
                attempts=max(run.attempts, 1),
                note=note,
                finished_at=None if state == SagaStep.State.CALLING else Now(),
            )
        ],
        update_conflicts=True,
        unique_fields=["run", "index"],
        update_fields=["state", "attempts", "note", "finished_at"],
    )
