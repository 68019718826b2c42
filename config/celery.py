"""Celery: tasks are doorbells and scans; the rows in PostgreSQL are the truth."""

import gc
import logging
import logging.config
import os
import threading
from pathlib import Path
from typing import Any

from celery import Celery, bootsteps
from celery.platforms import EX_FAILURE
from celery.signals import (
    beat_init,
    setup_logging,
    task_postrun,
    task_prerun,
    task_success,
    worker_before_create_process,
    worker_ready,
)
from django.conf import settings
from django.db import close_old_connections
from kombu.exceptions import OperationalError
from prometheus_client import Gauge
from redis.exceptions import RedisError

from foundation import logs, redis

log = logging.getLogger(__name__)
SUCCEEDED = Gauge(
    "everycent_job_succeeded_timestamp_seconds",
    "When a job that beat sends last came to its end.",
    ["task"],
    multiprocess_mode="max",
)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("everycent")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
# Without this Celery closes the database's connection after each task, and every wake-up pays 12 ms for a new one.
app.conf.CELERY_DB_REUSE_MAX = 1_000


class EndsAfterFailure(bootsteps.StartStopStep):
    """A worker whose loop has failed ends, whatever it would still wait for, and whoever supervises it starts it again.

    A child that is killed while it writes leaves half an answer: Celery calls that unrecoverable, and its stop may then wait for
    ever for what its children were at. That is in PostgreSQL, and others go on with it.
    """

    requires = ("celery.worker.components:Pool",)  # stopped before it is

    def stop(self, parent: Any) -> None:
        if parent.exitcode == EX_FAILURE:
            last_word = threading.Timer(settings.WORKER_STOPS_WITHIN_S, os._exit, [EX_FAILURE])
            last_word.daemon = True
            last_word.start()


app.steps["worker"].add(EndsAfterFailure)


@task_prerun.connect
def _look_after_connections(**_: object) -> None:
    """What Django does between two requests: a connection that broke meanwhile (a restart) is opened anew."""
    close_old_connections()


@worker_before_create_process.connect
def _share_memory(**_: object) -> None:
    """What stands before the fork stays shared: a full collection on either side would write to, and so copy, each page."""
    gc.collect()
    gc.freeze()


@setup_logging.connect
def _log_as_django_does(**_: object) -> None:
    """Connected, so Celery installs no handlers of its own: its lines take our format, and lose their secrets."""
    logging.config.dictConfig(settings.LOGGING)


@task_prerun.connect
def _bind_task(task_id: str, task: Any, **_: object) -> None:
    # The header of a task that a request asks for by itself. A doorbell has none: who hears it works for everybody.
    logs.begin(task_id=task_id, task=task.name, request_id=task.request.get("request_id", ""))


@task_postrun.connect
def _unbind_task(**_: object) -> None:
    logs.begin()


@task_success.connect
def _note_success(sender: Any, **_: object) -> None:
    if sender.name in settings.CELERY_BEAT_SCHEDULE:
        SUCCEEDED.labels(sender.name).set_to_current_time()


@worker_ready.connect
@beat_init.connect
def _catch_up(**_: object) -> None:
    """After an outage the provider's news are listed at once, not at the next full hour. Idempotent, and asked for once."""
    try:
        first = redis.client().set("everycent:catch_up", "1", nx=True, ex=settings.INBOX_CATCH_UP_AT_START_S)
        if first:
            app.send_task("payments.catch_up_events", retry=False)
    except (RedisError, OperationalError) as error:
        log.warning("events are not caught up at the start: %s", error)  # the hourly job does it


@worker_ready.connect
@beat_init.connect
def _report_ready(**_: object) -> None:
    """For whoever started us and waits: this process consumes, or schedules."""
    if file := os.environ.get("READY_FILE"):
        Path(file).write_text(str(os.getpid()))
