"""An application of Celery's with tasks that no worker outlives."""

import gc
import os
import signal
import struct
import time
from pathlib import Path

from billiard.pool import Worker

from config.celery import app


@app.task(name="tests.hang", queue="own", time_limit=1)
def hang(folder: str) -> None:
    """Leave the process's number, then sleep as C code does that never comes back to Python."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)


@app.task(name="tests.tear", queue="own")
def tear() -> None:
    """Die in the middle of an answer to the worker: its length is there, the rest is not what it should be."""
    (answers,) = (one.__dict__["outq"] for one in gc.get_objects() if isinstance(one, Worker))
    os.write(answers._writer.fileno(), struct.pack("!i", 8) + bytes(8))
    os.kill(os.getpid(), signal.SIGKILL)
