"""Beat's scheduler: django-celery-beat's, for a clock that may be wrong.

Its jobs are scans that ask the database what is due, so running one too often costs a query. Not running for a day,
because the clock once said tomorrow, would cost sales.
"""

import time
from datetime import datetime
from typing import Any

from celery import schedules
from django.utils import timezone
from django_celery_beat.schedulers import DatabaseScheduler, ModelEntry

_JUMP_S = 2  # the wall clock moved by so much against the steady one: somebody set it


class SteadyEntry(ModelEntry):  # type: ignore[misc]
    """What was last run in the future is due now: a beat with a wrong clock wrote that."""

    def is_due(self) -> schedules.schedstate:
        if self.model.enabled and self.last_run_at > timezone.now():
            return schedules.schedstate(True, 0)
        return super().is_due()  # type: ignore[no-any-return]


class SteadyScheduler(DatabaseScheduler):  # type: ignore[misc]
    """Plans anew when the clock was set: what it had planned by the old one might be a day away."""

    Entry = SteadyEntry

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._ahead_s = _ahead_s()
        super().__init__(*args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        ahead_s = _ahead_s()
        if abs(ahead_s - self._ahead_s) > _JUMP_S:
            self._heap = None
            self._last_full_sync = datetime.now()  # noqa: DTZ005  theirs is naive
        self._ahead_s = ahead_s
        return float(super().tick(*args, **kwargs))


def _ahead_s() -> float:
    """The wall clock less the one that nobody can set."""
    return time.time() - time.monotonic()
