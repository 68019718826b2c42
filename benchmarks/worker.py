"""`celery -A benchmarks.worker`: a worker like the product's, with one handler that says when it began."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from celery.signals import worker_ready

from config.celery import _catch_up, app
from durability.registry import handles
from durability.types import Event, Since

__all__ = ["app", "running", "wait"]

BEGAN = "benchmarks:began"
worker_ready.disconnect(_catch_up)  # there is no provider here


@dataclass(frozen=True, slots=True)
class Woken(Event):
    name: ClassVar[str] = "benchmarks.woken.v1"
    number: int

    @property
    def key(self) -> str:
        return str(self.number)


@handles(Woken, name="benchmarks.wake", since=Since.DEPLOYMENT)
def wake(event: Woken) -> None:
    began_ns = time.monotonic_ns()  # one clock for all processes of a machine
    from foundation.redis import client

    client().rpush(BEGAN, f"{event.number}:{began_ns}")


@contextmanager
def running(queue: str, *, concurrency: int) -> Iterator[None]:
    """Such a worker, ready, in processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready"
        command = [*(sys.executable, "-m", "celery", "-A", "benchmarks.worker", "--quiet", "worker", "-Q", queue)]
        command += ["--concurrency", str(concurrency), "--without-gossip", "--without-mingle", "--without-heartbeat"]
        worker = subprocess.Popen(command, env=os.environ | {"READY_FILE": str(ready)})
        try:
            wait(ready.exists, "the worker does not start")
            yield
        finally:
            worker.terminate()
            worker.wait(30)


def wait(condition: Callable[[], bool], problem: str) -> None:
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"error: {problem}")
        time.sleep(0.005)
