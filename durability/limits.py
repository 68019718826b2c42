"""A limit on how long a handler or a step may take, so that one that hangs holds up a worker for a bounded time."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from django.db import connection


class TookTooLong(BaseException):
    """The handler or step hung. No `Exception`: one that catches everything shall not catch this."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TookTooLong in the block after so many seconds. Outermost: the block's transaction rolls back inside.

    Only a process's main thread can be interrupted, which is where workers work; a web request relies on the timeouts
    of the calls that it makes. What does not react even to this (C code that never returns) is ended by the task's
    own `time_limit`, which kills the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise TookTooLong(f"took longer than {seconds} s")

    earlier = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except TookTooLong:
        connection.close()  # interrupted in the middle of a statement, it may be in no state to go on
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
