"""What beat is told to do, and what it does when its clock is wrong."""

import pytest
from django.conf import settings

from config.celery import app

app.loader.import_default_modules()


@pytest.mark.parametrize("name", sorted(settings.CELERY_BEAT_SCHEDULE))
def test_each_scheduled_task_can_be_sent(name, valkey):
    task = app.tasks[settings.CELERY_BEAT_SCHEDULE[name]["task"]]
    assert task.apply_async().id
