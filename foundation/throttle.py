"""How many calls a key may make: counted in Redis, in one atomic round trip; without Redis everyone may pass.

The generic cell rate algorithm: one number a key, the moment at which its bucket is full again. No window that a caller
could pass twice the limit across. Headers as draft-ietf-httpapi-ratelimit-headers says.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.conf import settings
from prometheus_client import Counter
from redis.exceptions import RedisError
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from foundation import redis
from foundation.permissions import caller

if TYPE_CHECKING:  # DRF loads this module while it loads its views
    from rest_framework.views import APIView

log = logging.getLogger(__name__)

THROTTLED = Counter("everycent_throttled", "Calls refused with 429, because their key made too many.")
UNCOUNTED = Counter("everycent_throttle_unavailable", "Calls let through uncounted, because Redis did not answer.")

# KEYS: the key's bucket; ARGV: calls a second, the burst in calls, the calls that are made now. All moments in microseconds of
# Redis' own clock.
# Answers {1 or 0, calls left, microseconds until the next call may pass}.
_TAKE = """
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2]
local cost = 1000000 / ARGV[1]
local full = tonumber(redis.call('GET', KEYS[1]) or 0)
if full < now then full = now end
local later = full + cost * ARGV[3]
local debt = later - now - cost * ARGV[2]
if debt > 0.5 then return {0, 0, math.ceil(debt)} end
redis.call('SET', KEYS[1], string.format('%.3f', later), 'PX', math.ceil((later - now) / 1000) + 1)
return {1, math.floor((cost * ARGV[2] - (later - now)) / cost + 0.001), 0}
"""

_PAUSE_S = (
    1.0  # after Redis did not answer, calls pass without asking it: nobody waits for its time-out again and again
)
_resume_at = 0.0


@dataclass(frozen=True, slots=True)
class Taken:
    """Whether a call may pass, how many more may at once, and after how many seconds the next one may."""

    passes: bool
    left: int
    wait_s: float


def take(name: object, *, per_second: int, calls: int = 1) -> Taken | None:
    """Count calls of `name`, of which `per_second` a second may pass, a second's worth at once. None without Redis."""
    global _resume_at  # noqa: PLW0603  one fact of this process, whichever thread learns it
    if time.monotonic() < _resume_at:
        return None
    try:
        passes, left, wait_us = _script()(keys=[f"everycent:throttle:{name}"], args=[per_second, per_second, calls])
    except RedisError as error:
        _resume_at = time.monotonic() + _PAUSE_S
        log.warning("calls are not counted: %s", error)
        return None
    return Taken(bool(passes), int(left), int(wait_us) / 1e6)


def _script() -> Any:
    return redis.client().register_script(_TAKE)


class KeyThrottle(BaseThrottle):
    """API_CALLS_PER_SECOND for each key. Calls without a key (webhooks) are not counted."""

    _wait_s: float | None = None

    def allow_request(self, request: Request, view: APIView) -> bool:
        if not request.auth:
            return True
        limit = settings.API_CALLS_PER_SECOND
        taken = take(caller(request).id, per_second=limit)
        if taken is None:
            UNCOUNTED.inc()
            return True
        # What DRF adds to whatever the view answers, a refusal included.
        view.headers["RateLimit-Policy"] = f'"key";q={limit};w=1'
        view.headers["RateLimit"] = f'"key";r={taken.left};t=1'
        if not taken.passes:
            THROTTLED.inc()
            self._wait_s = taken.wait_s
        return taken.passes

    def wait(self) -> float | None:
        return self._wait_s
