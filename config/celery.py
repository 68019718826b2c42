"""Celery: tasks are doorbells and scans; the rows in PostgreSQL are the truth."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("everycent")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
