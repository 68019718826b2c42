"""The expiry timer: a Redis sorted set, scored by due time. PostgreSQL's index is the truth and re-arms it."""

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

from redis.exceptions import RedisError

from foundation import redis
from foundation.redis import client

log = logging.getLogger(__name__)

_SET = "everycent:orders:due"
_FORGET = """
for at = 1, #ARGV, 2 do
    local score = redis.call("ZSCORE", KEYS[1], ARGV[at])
    if score and tonumber(score) == tonumber(ARGV[at + 1]) then redis.call("ZREM", KEYS[1], ARGV[at]) end
end
"""


def arm(due: Mapping[str, datetime]) -> None:
    """Order number → when it expires. Without Redis nothing is lost: the scan finds it."""
    if due:
        _quietly(lambda: client().zadd(_SET, {number: moment.timestamp() for number, moment in due.items()}))


def arming(due: Mapping[str, datetime]) -> redis.Command:
    """The same as a command, to be sent with others after a commit."""
    scores = [part for number, moment in due.items() for part in (moment.timestamp(), number)]
    return redis.Command(("ZADD", _SET, *scores))


def disarm(numbers: Iterable[str]) -> None:
    """Paid or cancelled: nothing to expire."""
    gone = list(numbers)
    if gone:
        _quietly(lambda: client().zrem(_SET, *gone))


def forget(looked_at: Mapping[str, float]) -> None:
    """Take out what was looked at, by number and score. What was armed anew meanwhile has another score, and stays."""
    if looked_at:
        pairs = [part for number, score in looked_at.items() for part in (number, repr(score))]
        _quietly(lambda: client().eval(_FORGET, 1, _SET, *pairs))


def due(now: datetime, *, limit: int) -> dict[str, float]:
    """Numbers whose time has come, earliest first, with their scores. They stay in the set until they are forgotten."""
    try:
        found = client().zrangebyscore(_SET, "-inf", now.timestamp(), start=0, num=limit, withscores=True)
    except RedisError as error:
        log.warning("the expiry timer does not answer: %s", error)
        return {}
    return {str(pair[0]): float(pair[1]) for pair in found}


def _quietly(work: Callable[[], object]) -> None:
    try:
        work()
    except RedisError as error:
        log.warning("the expiry timer was not set: %s", error)
