"""Celery: tasks are doorbells and scans; the rows in PostgreSQL are the truth."""

import os
from pathlib import Path

from celery import Celery
from celery.signals import beat_init, worker_ready

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("everycent")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@worker_ready.connect
@beat_init.connect
def _report_ready(**_: object) -> None:
    """For whoever started us and waits: this process consumes, or schedules."""
    if file := os.environ.get("READY_FILE"):
        Path(file).write_text(str(os.getpid()))
