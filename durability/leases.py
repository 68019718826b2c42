"""Keeps leases alive while their holder waits for somebody outside: short leases heal fast, calls may take longer."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.conf import settings
from django.db import connection, models

from foundation.database import in_seconds

log = logging.getLogger(__name__)


class _Keeper:
    """One thread a process, begun with the first lease. It talks to the database only for calls that take long."""

    def __init__(self) -> None:
        self._held: dict[object, tuple[type[models.Model], Any, int, float]] = {}
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @contextmanager
    def keeping(self, model: type[models.Model], pk: Any, lease_version: int) -> Iterator[None]:
        token = object()
        with self._lock:
            self._held[token] = (model, pk, lease_version, time.monotonic())
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                del self._held[token]

    def _run(self) -> None:
        while True:
            pause_s = settings.LEASE_S / 4
            time.sleep(pause_s)
            now = time.monotonic()
            with self._lock:
                # One that hangs for longer than any call may is given up: another worker shall have it.
                waiting = [
                    (model, pk, version)
                    for model, pk, version, since in self._held.values()
                    if pause_s <= now - since <= settings.CALL_TIME_LIMIT_S
                ]
            if waiting:
                self._renew(waiting)

    def _renew(self, waiting: list[tuple[type[models.Model], Any, int]]) -> None:
        try:
            for model, pk, version in waiting:
                until = in_seconds(settings.LEASE_S)
                model._default_manager.filter(pk=pk, lease_version=version, available_at__lt=until).update(
                    available_at=until
                )
        except Exception as error:  # noqa: BLE001  whatever it is: this thread keeps all leases of its process
            log.warning("leases could not be renewed: %s", error)
        finally:
            with suppress(Exception):
                connection.close()  # this thread's own


_keeper = _Keeper()


def keeping(model: type[models.Model], pk: Any, lease_version: int) -> Any:
    """While the block runs, the row's lease (`available_at`) is renewed, as long as its `lease_version` is ours."""
    return _keeper.keeping(model, pk, lease_version)


def _forget() -> None:
    global _keeper  # noqa: PLW0603  a forked child has the dictionary of its parent, and not its thread
    _keeper = _Keeper()


os.register_at_fork(after_in_child=_forget)
