"""The folder of one stack (`var/`): what lies in it, and who holds it."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from config.devstack import system
from config.devstack.system import StackError


class Files:
    """Everything that a stack keeps in its folder."""

    def __init__(self, var: Path) -> None:
        self.lock = var / "supervisor.lock"
        self.stack = var / "stack.json"
        self.credentials = var / "credentials.json"
        self.secrets = var / "secrets.json"
        self.secret_key = var / "secret_key"
        self.logs = var / "log"
        self.ready = var / "ready"
        self.metrics = var / "metrics"
        self.static = var / "static"
        self.static_stamp = var / "static.stamp"
        self.prepared_stamp = var / "prepared.stamp"
        self.trading_day = var / "trading_day.loaded"
        self.postgres = var / "postgres"
        self.valkey = var / "valkey"
        self.sandbox = var / "sandbox.sqlite3"

    def forget(self) -> None:
        """Delete all of it, except the lock that the caller holds, and nothing else that lies there."""
        for path in (
            self.postgres,
            self.valkey,
            self.static,
            self.logs,
            self.ready,
            self.metrics,
            Path(f"{self.postgres}.new"),
        ):
            if path.exists():
                shutil.rmtree(path)
        stamps = (self.static_stamp, self.prepared_stamp, self.trading_day)
        for path in (self.stack, self.credentials, self.secrets, self.secret_key, *stamps):
            path.unlink(missing_ok=True)
        for path in self.sandbox.parent.glob(f"{self.sandbox.name}*"):
            path.unlink()


def write_private(path: Path, text: str) -> None:
    """Whole or not at all, and for our own eyes."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)


@contextmanager
def lock(var: Path, *, url: str = "") -> Iterator[int]:
    """Hold the folder. The reaper shares the lock, so it is free only when nothing of the last stack is left."""
    var.mkdir(parents=True, exist_ok=True)
    with Files(var).lock.open("a+") as file:
        if not system.wait_until(lambda: _try_lock(file.fileno()) or _holder_lives(var), timeout_s=30):
            raise StackError(f"What a killed stack left in {var} does not end; look with `ps`.")
        if _try_lock(file.fileno()):
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "url": url}))
            file.flush()
            yield file.fileno()
            file.truncate(0)
            return
    running = holder(var)
    raise StackError(
        f"Everycent is already up at {running.get('url')} (pid {running.get('pid')}); `make down` stops it."
    )


def holder(var: Path) -> dict[str, Any]:
    """{pid, url} of the supervisor that holds the folder; empty when there is none."""
    try:
        with Files(var).lock.open() as file:
            if _try_lock(file.fileno()):
                return {}
            found: dict[str, Any] = json.loads(file.read() or "{}")
            return found
    except (OSError, ValueError):
        return {}


def _holder_lives(var: Path) -> bool:
    pid = holder(var).get("pid")
    return pid is not None and system.is_alive(pid)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
