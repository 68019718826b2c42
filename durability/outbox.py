"""Publish in the caller's transaction; deliver per handler and key in order; park what keeps failing."""

import json
import logging
import random
import time
import traceback
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from durability import doorbell, registry
from durability.models import Delivery, Message
from durability.types import Event, Handler
from foundation.database import in_seconds
from foundation.middleware import current_request_id, set_request_id

log = logging.getLogger(__name__)

_SHARE_OF_LEASE = 0.7  # of a batch's lease may be used up before the rest is given back
_LONGEST_ERROR = 4_000  # characters kept of a traceback

# Heads of their keys only: a message waits while an earlier one of the same handler and key is not done.
_CLAIM = """
WITH due AS (
    SELECT d.id
    FROM durability_delivery d
    WHERE d.state = %(state)s
      AND d.available_at <= clock_timestamp()
      AND NOT EXISTS (
          SELECT 1 FROM durability_delivery earlier
          WHERE earlier.handler = d.handler AND earlier.key = d.key AND earlier.id < d.id
            AND earlier.state IN ('pending', 'running', 'parked')
      )
    ORDER BY d.id
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
    if not connection.in_atomic_block:
        raise RuntimeError("publish() belongs into the transaction of the change that it tells of")
    request_id = current_request_id()
    message = Message.objects.create(
        name=event.name, key=event.key, payload=event.payload(), request_id="" if request_id == "-" else request_id
    )
    Delivery.objects.bulk_create(
        Delivery(message=message, handler=handler.name, key=event.key) for handler in registry.handlers_of(event.name)
    )
    doorbell.ring_after_commit("outbox")
    return message.pk


def drain(*, batches: int = 50) -> int:
    """Deliver what is due, in bounded batches. Returns how many deliveries were attempted."""
    attempted = 0
    for _ in range(batches):
        claims = claim(limit=settings.OUTBOX_BATCH)
        _deliver_all(claims)
        # One at a time: whichever of a dead worker's batch it was that killed it, the others must not die with it again.
        orphans = claim(limit=1, of_the_dead=True)
        _deliver_all(orphans)
        attempted += len(claims) + len(orphans)
        if not claims and not orphans:
            break
    return attempted


def _deliver_all(claims: list[Claim]) -> None:
    """Deliver a batch in order. What its lease leaves no time for is given back, and costs it no attempt."""
    end = time.monotonic() + settings.DELIVERY_LEASE_S * _SHARE_OF_LEASE
    for number, one in enumerate(claims):
        if number and time.monotonic() > end:
            _give_back(claims[number:])
            return
        deliver(one)


def _give_back(claims: list[Claim]) -> None:
    for one in claims:
        _mine(one).update(state=Delivery.State.PENDING, attempts=F("attempts") - 1, available_at=Now())


def claim(*, limit: int, of_the_dead: bool = False) -> list[Claim]:
    """Take up to `limit` due deliveries under a lease. The attempt is counted here, before any handler runs.

    `of_the_dead` takes those that another worker left running when its lease ended.
    """
    state = Delivery.State.RUNNING if of_the_dead else Delivery.State.PENDING
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"limit": limit, "lease_s": settings.DELIVERY_LEASE_S, "state": state})
        rows = cursor.fetchall()
    claims = [Claim(row[0], row[1], row[2], row[3], json.loads(row[4]), row[5]) for row in rows]
    return sorted(claims, key=lambda one: one.id)


def deliver(one: Claim) -> None:
    """Run one claimed delivery to done, to a later attempt, or to the park."""
    set_request_id(one.request_id)
    handler = registry.handler(one.handler)
    if one.attempts > settings.DELIVERY_MAX_ATTEMPTS:
        _fail(one, "The process died during every attempt.", park=True)
        return
    if handler is None:
        _fail(one, f"No handler is called {one.handler}: was it removed? Skip the delivery, or deploy the handler.")
        return
    try:
        _run(one, handler)
    except Exception:
        log.exception("delivery %s to %s failed, attempt %s", one.id, one.handler, one.attempts)
        _fail(one, traceback.format_exc()[-_LONGEST_ERROR:])


def _run(one: Claim, handler: Handler) -> None:
    event = handler.event.from_payload(one.payload)
    if handler.outside:
        if _renew(one):
            handler.run(event)
            _finish(one)
        return
    with transaction.atomic(durable=True):
        # The receipt first: it locks the row, proves the lease, and commits together with the handler's effects.
        if _finish(one):
            handler.run(event)


def _mine(one: Claim) -> Any:
    return Delivery.objects.filter(pk=one.id, state=Delivery.State.RUNNING, lease_version=one.lease_version)


def _finish(one: Claim) -> bool:
    return bool(_mine(one).update(state=Delivery.State.DONE, done_at=Now(), last_error=""))


def _renew(one: Claim) -> bool:
    return bool(_mine(one).update(available_at=in_seconds(settings.DELIVERY_LEASE_S)))


def _fail(one: Claim, error: str, *, park: bool = False) -> None:
    if park or one.attempts >= settings.DELIVERY_MAX_ATTEMPTS:
        if _mine(one).update(state=Delivery.State.PARKED, last_error=error):
            log.error("delivery %s to %s is parked: an operator must retry or skip it", one.id, one.handler)
        return
    _mine(one).update(state=Delivery.State.PENDING, last_error=error, available_at=in_seconds(backoff_s(one.attempts)))


def backoff_s(attempt: int, *, first_s: float | None = None, longest_s: float | None = None) -> float:
    """Doubling from the first to the longest, with jitter, so that what failed together does not return together."""
    first = settings.DELIVERY_BACKOFF_FIRST_S if first_s is None else first_s
    longest = settings.DELIVERY_BACKOFF_LONGEST_S if longest_s is None else longest_s
    return float(min(longest, first * 2 ** min(attempt - 1, 30))) * random.uniform(0.8, 1.2)  # noqa: S311  jitter
