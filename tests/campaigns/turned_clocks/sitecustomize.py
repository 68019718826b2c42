"""Loaded by every Python that runs under libfaketime (tests/campaigns/stack.py puts this folder on its path).

`time.sleep` sleeps until an absolute time since Python 3.11, which libfaketime 0.9.10 turns into an invalid one (EINVAL).
"""

import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep  # type: ignore[assignment]
