"""Runs sagas: takes a run under a lease, does its steps, undoes them after a definite failure.

Every commit of a run carries the lease's version: a zombie that lost its lease commits nothing. A run that stands at a
`Call` belongs to the workers whose lane is `outside`; all else is done by those that never leave the database.
"""

import json
import logging
import math
import time
import traceback
from collections.abc import Mapping
from typing import Any, assert_never
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from durability import doorbell, registry, shares
from durability.backoff import backoff_s
from durability.errors import LeaseLost, RecipeNotDeployed
from durability.leases import keeping
from durability.limits import TookTooLong, time_limit
from durability.models import SagaRun, SagaStep
from durability.types import Accepted, Call, Context, Lane, Lease, Refused, Saga, Step, Succeeded, Unknown
from foundation.database import in_seconds
from foundation.errors import DomainError
from foundation.ids import uuid7
from foundation.logs import bound, bound_id, named, named_in
from foundation.middleware import current_request_id

log = logging.getLogger(__name__)

_LONGEST_ERROR = 4_000
_MOST_UNDO_ATTEMPTS = 8  # then a person must look: compensation_failed

# A run whose process died of it again and again is taken up after 10, 20, 40 … 320 s, so that it cannot kill workers
# in a hot loop; `deaths` counts claims since the last commit.
_TAKE = """
UPDATE durability_sagarun
SET lease_version = lease_version + 1, attempts = attempts + 1, deaths = deaths + 1,
    available_at = clock_timestamp() + make_interval(secs => %(lease_s)s * 2 ^ least(deaths, 5))
WHERE id = ({which})
RETURNING id, recipe, version, key, subject, payload, request_id, state, current_step, outside, attempts,
          lease_version, error
"""
_TAKE_NEXT = _TAKE.format(
    which="""
    SELECT id FROM durability_sagarun
    WHERE state IN ('running', 'compensating') AND outside = %(outside)s AND available_at <= clock_timestamp()
      AND (recipe, version) IN (SELECT * FROM unnest(%(recipes)s::text[], %(versions)s::integer[]))
    ORDER BY available_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""
)
_TAKE_ONE = _TAKE.format(
    which="""
    SELECT id FROM durability_sagarun
    WHERE recipe = %(recipe)s AND key = %(key)s AND version = ANY(%(versions)s) AND state IN ('running', 'compensating')
      AND available_at <= clock_timestamp()
    FOR UPDATE SKIP LOCKED
"""
)

# Only from where the run stands in memory: what committed although its answer was lost (a connection that broke in COMMIT)
# has moved on, and must not be put back to be done again.
_SAVE = """
UPDATE durability_sagarun
SET state = %(state)s, current_step = %(current_step)s, outside = %(outside)s, attempts = %(attempts)s,
    deaths = CASE WHEN %(calling)s THEN deaths ELSE 0 END,
    error = %(error)s,
    available_at = clock_timestamp() + make_interval(
        secs => %(pause_s)s * CASE WHEN %(calling)s THEN 2 ^ least(greatest(deaths - 1, 0), 5) ELSE 1 END
    ),
    finished_at = CASE WHEN %(finished)s THEN clock_timestamp() END
WHERE id = %(id)s AND lease_version = %(lease_version)s AND state = %(was)s AND current_step = %(stood_at)s
RETURNING id
"""
# The run's progress and what became of its step: one statement, because every step of every sale pays for it.
_SAVE_WITH_STEP = f"""
WITH saved AS ({_SAVE})
INSERT INTO durability_sagastep (run_id, index, name, state, attempts, note, by, started_at, finished_at)
SELECT id, %(index)s, %(name)s, %(step_state)s, %(tries)s, %(note)s, %(by)s, clock_timestamp(),
       CASE WHEN %(step_state)s <> 'calling' THEN clock_timestamp() END
FROM saved
ON CONFLICT (run_id, index) DO UPDATE
SET state = excluded.state, attempts = excluded.attempts, note = excluded.note, by = excluded.by,
    finished_at = excluded.finished_at
"""  # noqa: S608  put together from constants


def start(saga: Saga, *, key: str, subject: str, payload: Mapping[str, Any], hold: bool) -> tuple[Lease, bool]:
    """Begin a run in the caller's transaction, once per recipe and key. Returns its lease and whether it is new.

    Steps whose `do` is None were done by the caller in this very transaction. With `hold` the caller takes the lease
    and calls `advance` after its commit; without it a worker is woken.
    """
    if not connection.in_atomic_block:
        raise RuntimeError("a saga begins in the transaction of what it is about")
    row = record(saga, key=key, subject=subject, payload=payload, hold=hold)
    with connection.cursor() as cursor:  # waits for a concurrent twin, then yields to it
        cursor.execute("SELECT durability_begin_saga(%s::jsonb)", [json.dumps(row)])
        (is_new,) = cursor.fetchone()
    if is_new and not hold:
        doorbell.ring_after_commit(Lane.OUTSIDE if row["outside"] else Lane.OWN)
    return Lease(UUID(row["id"]), int(hold)), is_new


def record(saga: Saga, *, key: str, subject: str, payload: Mapping[str, Any], hold: bool) -> dict[str, Any]:
    """A new run as `durability_begin_saga` takes it."""
    request_id = current_request_id()
    done = 0
    while done < len(saga.steps) and isinstance(step := saga.steps[done], Step) and step.do is None:
        done += 1
    return {
        "id": str(uuid7()),
        "recipe": saga.name,
        "version": saga.version,
        "key": key,
        "subject": subject or key,
        "payload": dict(payload),
        "request_id": "" if request_id == "-" else request_id,
        "done": [step.name for step in saga.steps[:done]],
        "outside": _goes_outside(saga, SagaRun.State.RUNNING, done),
        "held": hold,
        "held_s": settings.LEASE_S if hold else 0,
    }


def take(recipe: str, *, key: str) -> SagaRun | None:
    """Take one run that nobody holds. None if somebody does, or if it is finished, not yet due, or of a version that this
    process does not know.
    """
    versions = [saga.version for saga in registry.recipes() if saga.name == recipe]
    return _take(_TAKE_ONE, recipe=recipe, key=key, versions=versions)


def work(lane: Lane, *, until: float) -> int:
    """Work on the runs of a lane that are due, new, rested or left by a dead worker, until `time.monotonic()` says so.

    Only of recipes that this process knows: in a rollout the others are the new release's to take. Returns how many
    were taken up.
    """
    taken = 0
    while run := _take_next(lane):
        taken += 1
        with shares.timed({run.recipe}, lane):
            advance(run, lane, until=until)
        if time.monotonic() > until:
            break
    return taken


def _take_next(lane: Lane) -> SagaRun | None:
    resting = shares.resting(lane)
    known = [saga for saga in registry.recipes() if saga.name not in resting]
    recipes, versions = [saga.name for saga in known], [saga.version for saga in known]
    return _take(_TAKE_NEXT, outside=lane is Lane.OUTSIDE, recipes=recipes, versions=versions)


def tell_unknown() -> None:
    """Write it into the runs that are due since UNKNOWN_NAME_GRACE_S, and whose recipe nobody knows."""
    due = SagaRun.objects.filter(
        state__in=[SagaRun.State.RUNNING, SagaRun.State.COMPENSATING],
        available_at__lt=in_seconds(-settings.UNKNOWN_NAME_GRACE_S),
    )
    for recipe, version in due.values_list("recipe", "version").distinct().order_by():
        if registry.recipe(recipe, version) is None:
            error = f"No recipe {recipe} version {version} is deployed."
            log.error("sagas wait for ever: %s", error)
            due.filter(recipe=recipe, version=version).update(error=error)


def _take(statement: str, **which: Any) -> SagaRun | None:
    return next(iter(SagaRun.objects.raw(statement, {"lease_s": settings.LEASE_S, **which})), None)


def load(lease: Lease) -> SagaRun | None:
    """The run of a lease; None if somebody else has taken it over."""
    return SagaRun.objects.filter(pk=lease.run_id, lease_version=lease.version).first()


def advance(run: SagaRun, lane: Lane | None = None, *, until: float = math.inf) -> None:
    """Work on a taken run until it is finished, has to wait, or is somebody else's.

    A worker of the lane `own` hands a run on where it would leave the database; without a lane everything is done here.
    So does one whose `until` (of `time.monotonic()`) is over when a step is done.
    """
    about = named_in(run.payload) | named(run.key, run.subject)
    # A request that takes up what an earlier one left is told of under its own id; workers have none, they use the first's.
    request_id = bound_id("request_id") or run.request_id
    with bound(saga=f"{run.recipe} {run.key}", request_id=request_id, **about):
        try:
            while _advance_once(run, lane):
                if time.monotonic() > until:
                    _hand_on(run)
                    break
        except LeaseLost:
            log.info("saga %s was taken over, or has moved on: whoever takes it next sees where it stands", run.pk)


def _advance_once(run: SagaRun, lane: Lane | None) -> bool:
    """One step. True if there is more to do right now."""
    saga = registry.recipe(run.recipe, run.version)
    if saga is None:
        _wait(run, f"No recipe {run.recipe} version {run.version} is deployed.")
        return False
    if run.state == SagaRun.State.COMPENSATING:
        return _undo(run, saga)
    if run.state != SagaRun.State.RUNNING:
        return False
    if run.current_step >= len(saga.steps):
        _save(run, saga, state=SagaRun.State.COMPLETED)
        return False
    step = saga.steps[run.current_step]
    if isinstance(step, Call) and lane is Lane.OWN:
        _hand_on(run)
        return False
    try:
        return _do_step(run, saga, step) if isinstance(step, Step) else _do_call(run, saga, step)
    except LeaseLost:
        raise
    except DomainError as refusal:
        log.warning("saga %s %s: %s was refused: %s", run.recipe, run.key, step.name, refusal.detail)
        with transaction.atomic(durable=True):
            _turn_back(run, saga, f"{step.name}: {refusal.detail}", f"{refusal.code}: {refusal.detail}")
        return True
    except (Exception, TookTooLong):
        log.exception("saga %s %s: %s failed, attempt %s", run.recipe, run.key, step.name, run.attempts)
        _wait(run, traceback.format_exc()[-_LONGEST_ERROR:])
        return False


def _hand_on(run: SagaRun) -> None:
    """Its next step is somebody else's, at once; that this worker took it counts for no attempt."""
    _save(run, None, attempts=max(run.attempts - 1, 0), pause_s=0)
    doorbell.ring(bell=_lane(run))


def _do_step(run: SagaRun, saga: Saga, step: Step) -> bool:
    context = _context(run)
    with time_limit(settings.STEP_TIME_LIMIT_S), transaction.atomic(durable=True):
        more = _progress(run, saga)
        if step.do is not None:
            step.do(context)
    return more


def _do_call(run: SagaRun, saga: Saga, call: Call) -> bool:
    context = _context(run)
    _save(run, saga, note=(SagaStep.State.CALLING, ""))
    with keeping(SagaRun, run.pk, run.lease_version), time_limit(settings.CALL_TIME_LIMIT_S):
        outcome = call.do(context)
    with time_limit(settings.STEP_TIME_LIMIT_S), transaction.atomic(durable=True):
        match outcome:
            case Succeeded() | Accepted():
                more = _progress(run, saga)
            case Refused():
                _turn_back(run, saga, f"{call.name}: {outcome.message}", f"{outcome.code}: {outcome.message}")
                more = True
            case Unknown():
                log.warning("saga %s %s: %s has no answer yet: %s", run.recipe, run.key, call.name, outcome.reason)
                _wait(run, f"{call.name}: {outcome.reason}")
                more = False
            case _:
                assert_never(outcome)
        try:
            call.record(context, outcome)
        except DomainError as error:  # the other side has answered: no reason of ours makes that a refusal
            raise RuntimeError(f"what came of {call.name} could not be recorded: {error.detail}") from error
    return more


def _undo(run: SagaRun, saga: Saga) -> bool:
    """Undo the step that the run stands on, then go one back."""
    step = saga.steps[run.current_step]
    context = _context(run)
    last = run.current_step == 0
    undone = None if step.undo is None else (SagaStep.State.UNDONE, "")
    try:
        with time_limit(settings.STEP_TIME_LIMIT_S), transaction.atomic(durable=True):
            if last:
                _save(run, saga, note=undone, state=SagaRun.State.COMPENSATED, attempts=1)
            else:
                _save(run, saga, note=undone, current_step=run.current_step - 1, attempts=1)
            if step.undo is not None:
                step.undo(context)
    except LeaseLost:
        raise
    except (Exception, TookTooLong):  # noqa: BLE001  whatever it is, the run waits or a person looks
        error = traceback.format_exc()[-_LONGEST_ERROR:]
        if run.attempts >= _MOST_UNDO_ATTEMPTS:
            log.error("saga %s %s: compensation failed, a person must look:\n%s", run.recipe, run.key, error)
            _save(run, saga, state=SagaRun.State.COMPENSATION_FAILED, error=error)
        else:
            log.warning("saga %s %s: undoing %s failed, attempt %s", run.recipe, run.key, step.name, run.attempts)
            _wait(run, error)
        return False
    return not last


def _context(run: SagaRun) -> Context:
    return Context(key=run.key, payload=run.payload, attempt=max(run.attempts, 1))


def _progress(run: SagaRun, saga: Saga) -> bool:
    following = run.current_step + 1
    finished = following == len(saga.steps)
    _save(
        run,
        saga,
        note=(SagaStep.State.DONE, ""),
        current_step=following,
        state=SagaRun.State.COMPLETED if finished else SagaRun.State.RUNNING,
        attempts=0 if finished else 1,
        error="",
    )
    return not finished


def _turn_back(run: SagaRun, saga: Saga, error: str, note: str) -> None:
    _save(
        run,
        saga,
        note=(SagaStep.State.FAILED, note),
        state=SagaRun.State.COMPENSATING,
        attempts=1,
        error=error,
    )


def _wait(run: SagaRun, error: str) -> None:
    """Give the run back until its backoff ends. A transient fault is tried for ever: money may hang on it."""
    pause_s = backoff_s(max(run.attempts, 1), first_s=settings.SAGA_BACKOFF_FIRST_S)
    _save(run, None, error=error, pause_s=pause_s)


def skip(run: SagaRun, *, by: str, reason: str) -> None:
    """An operator's decision over a locked run, in the caller's transaction: the step it stands at shall not happen.

    While it compensates, it is the undo of that step that shall not happen. Raises what the recipe has against it.
    """
    saga = _deployed(run)
    step = saga.steps[run.current_step] if run.current_step < len(saga.steps) else None
    if isinstance(step, Step) and step.may_skip:
        step.may_skip(_context(run))
    note = (SagaStep.State.SKIPPED, reason)
    if run.state == SagaRun.State.RUNNING:
        following = run.current_step + 1
        finished = following == len(saga.steps)
        state = SagaRun.State.COMPLETED if finished else SagaRun.State.RUNNING
        _save(run, saga, note=note, by=by, state=state, current_step=following, attempts=0, error="", pause_s=0)
    elif run.current_step == 0:
        _save(run, saga, note=note, by=by, state=SagaRun.State.COMPENSATED, attempts=0, pause_s=0)
    else:
        before = run.current_step - 1
        state = SagaRun.State.COMPENSATING
        _save(run, saga, note=note, by=by, state=state, current_step=before, attempts=0, pause_s=0)


def turn_back(run: SagaRun, *, by: str, reason: str) -> None:
    """An operator's decision over a locked, running run, in the caller's transaction: what it did is undone."""
    saga = _deployed(run)
    error = f"turned back by {by}: {reason}"
    note = (SagaStep.State.FAILED, reason)
    _save(run, saga, note=note, by=by, state=SagaRun.State.COMPENSATING, attempts=0, error=error, pause_s=0)


def _deployed(run: SagaRun) -> Saga:
    saga = registry.recipe(run.recipe, run.version)
    if saga is None:
        raise RecipeNotDeployed(f"No recipe {run.recipe} version {run.version} is deployed.")
    return saga


def _save(
    run: SagaRun,
    saga: Saga | None,
    *,
    note: tuple[str, str] | None = None,
    by: str = "",
    pause_s: float | None = None,
    **changes: Any,
) -> None:
    """Commit a run's progress under its lease, and what became of its step. Raises LeaseLost, also where the run stands
    elsewhere than in memory.

    Without a pause the lease is renewed: there is more to do. The run in memory follows when the transaction commits.
    """
    state, step = changes.get("state", run.state), changes.get("current_step", run.current_step)
    if saga is not None:
        changes["outside"] = _goes_outside(saga, state, step)
    calling = note is not None and note[0] == SagaStep.State.CALLING
    values = {
        "id": run.pk,
        "lease_version": run.lease_version,
        "was": run.state,
        "stood_at": run.current_step,
        "state": state,
        "current_step": step,
        "outside": changes.get("outside", run.outside),
        "attempts": changes.get("attempts", run.attempts),
        "error": changes.get("error", run.error),
        "pause_s": settings.LEASE_S if pause_s is None else pause_s,
        "calling": calling,
        "finished": state in (SagaRun.State.COMPLETED, SagaRun.State.COMPENSATED),
    }
    if note:
        name = saga.steps[run.current_step].name if saga else ""
        values |= {"index": run.current_step, "name": name, "tries": max(run.attempts, 1), "by": by}
        values |= {"step_state": note[0], "note": note[1]}
    with connection.cursor() as cursor:
        cursor.execute(_SAVE_WITH_STEP if note else _SAVE, values)
        if cursor.rowcount == 0:
            raise LeaseLost
    transaction.on_commit(lambda: run.__dict__.update(changes))


def _goes_outside(saga: Saga, state: str, step: int) -> bool:
    return state == SagaRun.State.RUNNING and step < len(saga.steps) and isinstance(saga.steps[step], Call)


def _lane(run: SagaRun) -> Lane:
    return Lane.OUTSIDE if run.outside else Lane.OWN
