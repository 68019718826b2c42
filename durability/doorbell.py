"""Wakes a worker right after commit. Only a wake-up: what no doorbell rang for, beat's scan finds a moment later."""

import logging
from functools import partial

from celery import current_app
from django.conf import settings
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from foundation import redis

log = logging.getLogger(__name__)

# Which task each bell wakes, by its registered name.
TASKS = {"own": "durability.work_own", "outside": "durability.work_outside", "mirror": "durability.mirror"}


def ring_after_commit(bell: str) -> None:
    """Ring once after the present transaction commits, however often it asks for it."""
    redis.after_commit(ringing(bell))


def ringing(bell: str) -> redis.Command:
    """The command that rings: it sends one task unless one is on its way already."""
    parts = ("SET", _name(bell), 1, "NX", "PX", settings.OUTBOX_DOORBELL_TTL_MS)
    return redis.Command(parts, then=partial(_send, bell), once=f"ring {bell}")


def ring(*, bell: str) -> None:
    """Send one task unless one is on its way already. Without Redis it does nothing: the scan will do."""
    try:
        _send(bell, redis.client().set(_name(bell), 1, nx=True, px=settings.OUTBOX_DOORBELL_TTL_MS))
    except RedisError as error:
        log.warning("the doorbell for %s did not ring: %s", bell, error)


def _send(bell: str, was_silent: object) -> None:
    if not was_silent:
        return
    try:
        current_app.send_task(TASKS[bell], retry=False)
    except (RedisError, OperationalError) as error:
        log.warning("the doorbell for %s did not ring: %s", bell, error)


def answer(bell: str) -> None:
    """Clear the bell *before* reading, so that what commits while we read rings again."""
    try:
        redis.client().delete(_name(bell))
    except RedisError as error:
        log.warning("the doorbell for %s could not be cleared: %s", bell, error)


def _name(bell: str) -> str:
    return f"everycent:doorbell:{bell}"
