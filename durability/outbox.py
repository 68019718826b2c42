"""Publish in the caller's transaction; deliver per handler and key in order; park what keeps failing."""

import json
import logging
import math
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from durability import doorbell, registry, shares
from durability.backoff import backoff_s
from durability.leases import keeping
from durability.limits import TookTooLong, time_limit
from durability.models import Delivery
from durability.types import Event, Handler, Lane
from foundation.database import in_seconds
from foundation.logs import bound, named_in
from foundation.middleware import current_request_id

log = logging.getLogger(__name__)

_SHARE_OF_LEASE = 0.7  # of a batch's lease may be used up before the rest is given back
_LONGEST_ERROR = 4_000  # characters kept of a traceback

_PUBLISH = "SELECT durability_publish(%s::jsonb)"

# Heads of their keys only: a message waits while an earlier one of the same handler and key is not done. First attempts
# before retries: what fails, or hangs until its time limit, comes back when the others have had their turn.
_CLAIM = """
WITH due AS (
    SELECT d.id
    FROM durability_delivery d
    WHERE d.state = %(state)s AND d.outside = %(outside)s AND d.handler = ANY(%(handlers)s)
      AND d.available_at <= clock_timestamp()
      AND NOT EXISTS (
          SELECT 1 FROM durability_delivery earlier
          WHERE earlier.handler = d.handler AND earlier.key = d.key AND earlier.message_id < d.message_id
            AND earlier.state IN ('pending', 'running', 'parked')
      )
    ORDER BY (d.attempts > 0), d.id
    LIMIT %(limit)s
    FOR UPDATE OF d SKIP LOCKED
)
UPDATE durability_delivery d
SET state = 'running', attempts = d.attempts + 1, lease_version = d.lease_version + 1,
    available_at = clock_timestamp() + make_interval(secs => %(lease_s)s)
FROM due, durability_message m
WHERE d.id = due.id AND m.id = d.message_id
RETURNING d.id, d.handler, d.attempts, d.lease_version, m.payload, m.request_id
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery that this process may work on until its lease ends."""

    id: int
    handler: str
    attempts: int
    lease_version: int
    payload: dict[str, Any]
    request_id: str


def publish(event: Event) -> int:
    """Write an event and one delivery per handler, in the caller's transaction. Returns the message's id.

    The caller holds the lock on the aggregate that the event is about: that lock gives the order.
    """
    return publish_many([event])[0]


def publish_many(events: Sequence[Event]) -> list[int]:
    """The same for many events in one statement. Returns the messages' ids, which rise in the order of the events."""
    if not connection.in_atomic_block:
        raise RuntimeError("publish() belongs into the transaction of the change that it tells of")
    if not events:
        return []
    news = record(events)
    with connection.cursor() as cursor:
        cursor.execute(_PUBLISH, [json.dumps(news)])
        ids = [row[0] for row in cursor.fetchall()]
    for bell in bells(news):
        doorbell.ring_after_commit(bell)
    return ids


def record(events: Sequence[Event], *, kinds: Sequence[type[Event]] = ()) -> dict[str, Any]:
    """News as `durability_publish` takes them: the events, and who listens."""
    request_id = current_request_id()
    names = dict.fromkeys([*(event.name for event in events), *(kind.name for kind in kinds)])
    handlers = [handler for name in names for handler in registry.handlers_of(name)]
    return {
        "events": [{"name": event.name, "key": event.key, "payload": event.payload()} for event in events],
        "request_id": "" if request_id == "-" else request_id,
        "listeners": [
            {"handler": handler.name, "name": handler.event.name, "outside": handler.lane is Lane.OUTSIDE}
            for handler in handlers
        ],
    }


def bells(news: Mapping[str, Any]) -> list[str]:
    """Whom to wake once these news are committed."""
    lanes = {Lane.OUTSIDE if listener["outside"] else Lane.OWN for listener in news["listeners"]}
    return [*sorted(lanes), "mirror"]


def deliver_batch(lane: Lane, *, until: float = math.inf) -> int:
    """Deliver a batch of what is due in a lane. Returns how many deliveries were taken up.

    When `time.monotonic()` is past `until`, what dead workers left is left to the next batch.
    """
    claims = claim(lane, limit=settings.OUTBOX_BATCH if lane is Lane.OWN else settings.OUTBOX_BATCH_OUTSIDE)
    _deliver_all(claims, lane)
    if claims and time.monotonic() > until:
        return len(claims)
    # One at a time: whichever of a dead worker's batch it was that killed it, the others must not die with it again.
    orphans = claim(lane, limit=1, of_the_dead=True)
    _deliver_all(orphans, lane)
    return len(claims) + len(orphans)


def _deliver_all(claims: list[Claim], lane: Lane) -> None:
    """Deliver a batch in order.

    What its lease leaves no time for, and what has to rest by now, is given back, and costs it no attempt.
    """
    end = time.monotonic() + settings.LEASE_S * _SHARE_OF_LEASE
    for number, one in enumerate(claims):
        if number and (time.monotonic() > end or one.handler in shares.resting(lane)):
            _give_back(one)
            continue
        with shares.timed(registry.alongside(one.handler), lane):
            deliver(one)


def _give_back(one: Claim) -> None:
    _mine(one).update(state=Delivery.State.PENDING, attempts=F("attempts") - 1, available_at=Now())


def claim(lane: Lane, *, limit: int, of_the_dead: bool = False) -> list[Claim]:
    """Take up to `limit` due deliveries under a lease. The attempt is counted here, before any handler runs.

    Only of handlers that this process knows: in a rollout the others are the new release's to take.
    `of_the_dead` takes those that another worker left running when its lease ended.
    """
    resting = shares.resting(lane)
    state = Delivery.State.RUNNING if of_the_dead else Delivery.State.PENDING
    which: dict[str, Any] = {
        "limit": limit,
        "state": state,
        "outside": lane is Lane.OUTSIDE,
        "handlers": [handler.name for handler in registry.handlers() if handler.name not in resting],
    }
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"lease_s": settings.LEASE_S, **which})
        rows = cursor.fetchall()
    claims = [Claim(row[0], row[1], row[2], row[3], json.loads(row[4]), row[5]) for row in rows]
    return sorted(claims, key=lambda one: (_stands_aside(one.handler), one.attempts > 1, one.id))


def _stands_aside(name: str) -> bool:
    return bool(registry.handler(name).aside)


def deliver(one: Claim) -> None:
    """Run one claimed delivery to done, to a later attempt, or to the park."""
    with bound(delivery=f"{one.handler} {one.id}", request_id=one.request_id, **named_in(one.payload)):
        _deliver(one)


def _deliver(one: Claim) -> None:
    if one.attempts > settings.DELIVERY_MAX_ATTEMPTS:
        _fail(one, "The process died during every attempt.", park=True)
        return
    try:
        _run(one, registry.handler(one.handler))
    except (Exception, TookTooLong):
        log.exception("delivery %s to %s failed, attempt %s", one.id, one.handler, one.attempts)
        _fail(one, traceback.format_exc()[-_LONGEST_ERROR:])


def _run(one: Claim, handler: Handler) -> None:
    event = handler.event.from_payload(one.payload)
    if handler.outside:
        if _renew(one):
            with keeping(Delivery, one.id, one.lease_version), time_limit(settings.CALL_TIME_LIMIT_S):
                handler.run(event)
            _finish(one)
        return
    with time_limit(settings.STEP_TIME_LIMIT_S), transaction.atomic(durable=True):
        # The receipt first: it locks the row, proves the lease, and commits together with the handler's effects.
        if _finish(one):
            handler.run(event)


def park_unknown() -> int:
    """Park what no process has known a handler for since UNKNOWN_NAME_GRACE_S. Returns how many."""
    unknown = Delivery.objects.filter(
        state__in=[Delivery.State.PENDING, Delivery.State.RUNNING],
        available_at__lte=Now(),
        due_since__lt=in_seconds(-settings.UNKNOWN_NAME_GRACE_S),
    ).exclude(handler__in=[handler.name for handler in registry.handlers()])
    error = "No handler has this name: was it removed? Skip the delivery, or deploy the handler and retry."
    parked = unknown.update(state=Delivery.State.PARKED, last_error=error)
    if parked:
        log.error("%s deliveries to handlers that nobody knows are parked: an operator must retry or skip them", parked)
    return parked


def _mine(one: Claim) -> Any:
    return Delivery.objects.filter(pk=one.id, state=Delivery.State.RUNNING, lease_version=one.lease_version)


def _finish(one: Claim) -> bool:
    return bool(_mine(one).update(state=Delivery.State.DONE, done_at=Now(), last_error=""))


def _renew(one: Claim) -> bool:
    return bool(_mine(one).update(available_at=in_seconds(settings.LEASE_S)))


def _fail(one: Claim, error: str, *, park: bool = False) -> None:
    if park or one.attempts >= settings.DELIVERY_MAX_ATTEMPTS:
        if _mine(one).update(state=Delivery.State.PARKED, last_error=error):
            log.error("delivery %s to %s is parked: an operator must retry or skip it", one.id, one.handler)
        return
    pause_s = backoff_s(one.attempts, first_s=settings.DELIVERY_BACKOFF_FIRST_S)
    _mine(one).update(state=Delivery.State.PENDING, last_error=error, available_at=in_seconds(pause_s))
