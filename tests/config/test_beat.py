"""What beat is told to do, and what it does when its clock is wrong."""

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from django_celery_beat.schedulers import DatabaseScheduler

from config.beat import SteadyScheduler
from config.celery import app

app.loader.import_default_modules()


@pytest.mark.parametrize("name", sorted(settings.CELERY_BEAT_SCHEDULE))
def test_each_scheduled_task_can_be_sent(name, valkey):
    task = str(settings.CELERY_BEAT_SCHEDULE[name]["task"])
    assert app.tasks[task].apply_async().id


# --- A clock that was wrong -----------------------------------------------------------------------------

A_DAY_AND_AN_HOUR_S = 25 * 3600
JOBS = set(settings.CELERY_BEAT_SCHEDULE)


def listening(scheduler: type[DatabaseScheduler]) -> Any:
    """The scheduler, noting what it would send in place of sending it."""

    class Listening(scheduler):  # type: ignore[misc]
        def apply_entry(self, entry, producer=None):
            self.sent.add(entry.name)

    made = Listening(app=app, lazy=True)
    made._finalize.cancel()  # it would write to the database when the tests end
    made.sent = set()
    made.setup_schedule()
    return made


def sent_at_once(beat: Any) -> set[str]:
    beat.sent.clear()
    while beat.tick() == 0:
        pass
    return set(beat.sent) & JOBS


@pytest.mark.parametrize(("scheduler", "expected"), [(SteadyScheduler, JOBS), (DatabaseScheduler, set())])
def test_what_was_last_run_in_the_future_runs_now(transactional_db, scheduler, expected):
    listening(scheduler)
    PeriodicTask.objects.update(last_run_at=timezone.now() + timedelta(seconds=A_DAY_AND_AN_HOUR_S))
    assert sent_at_once(listening(scheduler)) == expected


@pytest.mark.parametrize(("scheduler", "expected"), [(SteadyScheduler, JOBS), (DatabaseScheduler, set())])
def test_a_running_beat_plans_anew_when_its_clock_is_set_back(transactional_db, scheduler, expected):
    beat = listening(scheduler)
    sent_at_once(beat)
    # As if all that had been by a clock that was ahead.
    ahead = timedelta(seconds=A_DAY_AND_AN_HOUR_S)
    beat._heap = [event._replace(time=event.time + A_DAY_AND_AN_HOUR_S) for event in beat._heap]
    for entry in beat._schedule.values():
        entry.last_run_at += ahead
    beat._ahead_s = getattr(beat, "_ahead_s", 0) + A_DAY_AND_AN_HOUR_S
    assert sent_at_once(beat) == expected


def test_a_clock_that_is_right_repeats_nothing(transactional_db):
    beat = listening(SteadyScheduler)
    PeriodicTask.objects.update(last_run_at=timezone.now())
    beat = listening(SteadyScheduler)
    # Of those that run every few seconds one may be due by now, on a busy machine.
    jobs: dict[str, Any] = settings.CELERY_BEAT_SCHEDULE
    often = {name for name, job in jobs.items() if job["schedule"] < timedelta(minutes=1)}
    assert sent_at_once(beat) - often == set()
