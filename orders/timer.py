"""The expiry timer: a Redis sorted set, scored by due time. PostgreSQL's index is the truth and re-arms it."""

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from redis.exceptions import RedisError

from foundation.redis import client

log = logging.getLogger(__name__)

_SET = "everycent:orders:due"


def arm(due: Mapping[str, datetime]) -> None:
    """Order number → when it expires. Without Redis nothing is lost: the scan finds it."""
    if due:
        _quietly(lambda: client().zadd(_SET, {number: moment.timestamp() for number, moment in due.items()}))


def disarm(numbers: Iterable[str]) -> None:
    """Paid or cancelled: nothing to expire."""
    gone = list(numbers)
    if gone:
        _quietly(lambda: client().zrem(_SET, *gone))


def due(now: datetime, *, limit: int) -> list[str]:
    """Numbers whose time has come, earliest first. They stay in the set until they are disarmed."""
    try:
        return [str(number) for number in client().zrangebyscore(_SET, "-inf", now.timestamp(), start=0, num=limit)]
    except RedisError as error:
        log.warning("the expiry timer does not answer: %s", error)
        return []


def _quietly(work: Callable[[], object]) -> None:
    try:
        work()
    except RedisError as error:
        log.warning("the expiry timer was not set: %s", error)
