"""Nothing that is slow may take all of a worker's time.

A handler or recipe that was slow rests afterwards, in this process, for three times as long as it took: whatever hangs
uses a quarter of the workers at most, and the others' work goes on in the rest. Slow is what waits for another side, and in our
own database what took longer than any lock may be waited for.
"""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from django.conf import settings

from durability.types import Lane

_SLOW_OUTSIDE_S = 1.0
_REST = 3
_rests: dict[tuple[Lane, str], float] = {}


def resting(lane: Lane) -> list[str]:
    """Names of handlers and recipes of a lane that rest at the moment."""
    now = time.monotonic()
    for one in [one for one, until in _rests.items() if until <= now]:
        del _rests[one]
    return [name for resting_in, name in _rests if resting_in is lane]


@contextmanager
def timed(names: Collection[str], lane: Lane) -> Iterator[None]:
    """Measure one piece of work of a handler or recipe. If it was slow, it rests, and so do those that depend on the
    same other side: four handlers that wait for one mail server shall not each take a quarter."""
    begun = time.monotonic()
    try:
        yield
    finally:
        took_s = time.monotonic() - begun
        if took_s > _slow_s(lane):
            _rests.update(dict.fromkeys(((lane, name) for name in names), begun + took_s * (1 + _REST)))


def _slow_s(lane: Lane) -> float:
    return _SLOW_OUTSIDE_S if lane is Lane.OUTSIDE else settings.DATABASE_LOCK_TIMEOUT_MS / 1000


def forget() -> None:
    """Let everything work again at once."""
    _rests.clear()
