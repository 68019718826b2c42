"""Nothing that leaves the process may take all of a worker's time.

A handler or recipe whose other side answers slowly rests afterwards, in this process, for three times as long as it
took: whatever hangs uses a quarter of the workers at most, and the others' work goes on in the rest.
"""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from durability.types import Lane

_SLOW_S = 1.0
_REST = 3
_rests: dict[str, float] = {}


def resting(lane: Lane) -> list[str]:
    """Names of handlers and recipes of a lane that rest at the moment."""
    if lane is Lane.OWN:
        return []
    now = time.monotonic()
    for name in [name for name, until in _rests.items() if until <= now]:
        del _rests[name]
    return list(_rests)


@contextmanager
def timed(names: Collection[str], lane: Lane) -> Iterator[None]:
    """Measure one piece of work of a handler or recipe. If it was slow, it rests, and so do those that depend on the
    same other side: four handlers that wait for one mail server shall not each take a quarter."""
    begun = time.monotonic()
    try:
        yield
    finally:
        took_s = time.monotonic() - begun
        if lane is Lane.OUTSIDE and took_s > _SLOW_S:
            _rests.update(dict.fromkeys(names, begun + took_s * (1 + _REST)))


def forget() -> None:
    """Let everything work again at once."""
    _rests.clear()
