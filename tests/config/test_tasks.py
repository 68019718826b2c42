"""Every task has a queue, and each queue has workers."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from celery import current_app
from celery.fixups.django import DjangoWorkerFixup  # type: ignore[attr-defined]
from celery.signals import beat_init, task_success, worker_ready
from django.conf import settings
from django.db import connection
from redis.exceptions import ConnectionError as RedisConnectionError

from config.celery import _look_after_connections, app
from config.devstack.stack import WORKERS
from tests.exposition import read


def test_every_task_of_ours_is_routed_to_a_queue_that_somebody_serves():
    current_app.loader.import_default_modules()
    ours = {name for name in current_app.tasks if not name.startswith("celery.")}
    assert ours == set(settings.CELERY_TASK_ROUTES)
    assert {route["queue"] for route in settings.CELERY_TASK_ROUTES.values()} == set(settings.QUEUES) == set(WORKERS)


def test_a_task_that_is_sent_by_name_goes_to_its_queue(valkey):
    for name in ("durability.work_outside", "reconciliation.nightly"):
        current_app.send_task(name)
    assert (valkey.llen("outside"), valkey.llen("long"), valkey.llen("own")) == (1, 1, 0)


# --- The workers' connection ---------------------------------------------------------------------------------


def around_a_task() -> None:
    """What a worker's process does before and after each task."""
    current_app.loader.import_default_modules()
    task = current_app.tasks["durability.work_own"]
    fixup = DjangoWorkerFixup(app)
    task.push_request(is_eager=False)
    try:
        fixup.on_task_prerun(task)
        _look_after_connections()
        fixup.on_task_postrun(task)
    finally:
        task.pop_request()


def backend() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def test_a_worker_keeps_its_connection_from_task_to_task(transactional_db):
    before = backend()
    around_a_task()
    assert backend() == before


def test_a_worker_whose_connection_broke_opens_another(transactional_db):
    before = backend()
    with psycopg.connect(**connection.get_connection_params(), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [before])
    around_a_task()
    assert backend() != before


# --- What hangs ----------------------------------------------------------------------------------------------


def test_a_task_that_nothing_can_interrupt_is_killed_with_its_process(valkey, tmp_path):
    """Celery takes a general soft limit wherever there is one, and then the hard one counts from its end."""
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "tests.config.hanging",
        "worker",
        "-Q",
        "own",
        "--concurrency",
        "1",
    ]
    worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        current_app.send_task("tests.hang", args=[str(tmp_path)], queue="own")
        assert until(lambda: list(tmp_path.iterdir()))
        pid = int(next(tmp_path.iterdir()).name)
        assert until(lambda: not Path(f"/proc/{pid}").exists())
    finally:
        worker.kill()
        worker.wait()


def test_a_worker_whose_loop_has_failed_ends(valkey, tmp_path):
    """Celery would wait for what its children are at for as long as it takes, and nobody would start it again."""
    command = ["-m", "celery", "-A", "tests.config.hanging", "worker", "-Q", "own", "--concurrency", "2"]
    said = tmp_path / "said"
    with said.open("w") as output:
        worker = subprocess.Popen([sys.executable, *command], stdout=output, stderr=output)
    try:
        # On a new connection, which names the queue to Valkey: an older one did so before the queue was forgotten.
        with current_app.connection_for_write() as own:
            current_app.send_task("tests.hang", args=[str(tmp_path)], queue="own", time_limit=600, connection=own)
        assert until(lambda: len(list(tmp_path.iterdir())) > 1)
        current_app.send_task("tests.tear", queue="own")
        assert worker.wait(25) == 1
        assert "Unrecoverable error: UnpicklingError" in said.read_text()
    finally:
        worker.kill()
        worker.wait()


def until(happens: Callable[[], object], *, within_s: float = 20) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if happens():
            return True
        time.sleep(0.1)
    return False


# --- At the start -----------------------------------------------------------------------------------


@pytest.mark.parametrize("starts", [worker_ready, beat_init])
def test_whoever_starts_first_has_the_providers_events_caught_up(valkey, monkeypatch, starts):
    sent: list[str] = []
    monkeypatch.setattr(app, "send_task", lambda name, **_: sent.append(name))
    for _ in range(3):  # a stack starts several processes
        starts.send(sender=None)
    assert sent == ["payments.catch_up_events"]


def test_a_start_without_redis_goes_on(monkeypatch):
    def away() -> None:
        raise RedisConnectionError("nobody listens")

    monkeypatch.setattr("config.celery.redis.client", away)
    worker_ready.send(sender=None)


# --- When a job last came to its end ---------------------------------------------------------------------------


def test_when_a_job_came_to_its_end_is_told_beside_how_often_it_is_sent(db):
    current_app.loader.import_default_modules()
    job, asked_for = (current_app.tasks[f"reconciliation.{name}"] for name in ("extend_chain", "reconcile_day"))
    before = time.time()
    for task in (job, asked_for):
        task_success.send(sender=task, result=None)
    seen = read()
    assert seen.value("everycent_job_succeeded_timestamp_seconds", task=job.name) >= before
    assert seen.value("everycent_job_interval_seconds", task=job.name) == settings.AUDIT_CHAIN_INTERVAL_S
    assert not seen.has("everycent_job_succeeded_timestamp_seconds", task=asked_for.name)
