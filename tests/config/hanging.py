"""An application of Celery's with one task that nothing inside of its process can end."""

import os
import signal
import time
from pathlib import Path

from config.celery import app


@app.task(name="tests.hang", queue="own", time_limit=1)
def hang(folder: str) -> None:
    """Leave the process's number, then sleep as C code does that never comes back to Python."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(600)
