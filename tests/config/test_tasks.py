"""Every task has a queue, and each queue has workers."""

from celery import current_app
from django.conf import settings

from config.devstack.stack import WORKERS


def test_every_task_of_ours_is_routed_to_a_queue_that_somebody_serves():
    current_app.loader.import_default_modules()
    ours = {name for name in current_app.tasks if not name.startswith("celery.")}
    assert ours == set(settings.CELERY_TASK_ROUTES)
    assert {route["queue"] for route in settings.CELERY_TASK_ROUTES.values()} == set(settings.QUEUES) == set(WORKERS)


def test_a_task_that_is_sent_by_name_goes_to_its_queue(valkey):
    for name in ("durability.work_outside", "reconciliation.nightly"):
        current_app.send_task(name)
    assert (valkey.llen("outside"), valkey.llen("long"), valkey.llen("own")) == (1, 1, 0)
