"""One writer of discrepancies at a time: runs of different days, and actions that look at one object again."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.db import OperationalError, connection, transaction

from foundation.database import sqlstate
from reconciliation.errors import BooksBusy

_KEY = 0x5EC0_4C11
_CHAIN_KEY = 0x5EC0_4C12
_LOCK_NOT_AVAILABLE = "55P03"


@contextmanager
def one_writer(*, wait_s: float) -> Iterator[None]:
    """A transaction in which nobody else matches and writes discrepancies. Raises BooksBusy after waiting so long."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {int(settings.RECONCILE_STATEMENT_TIMEOUT_MS)}")
            cursor.execute(f"SET LOCAL lock_timeout = {int(wait_s * 1000)}")
            try:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_KEY])
            except OperationalError as error:
                if sqlstate(error) != _LOCK_NOT_AVAILABLE:
                    raise
                raise BooksBusy from error
        yield


@contextmanager
def chain_writer() -> Iterator[None]:
    """A transaction in which nobody else adds to the audit chain; taken after `one_writer` where both are needed."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {int(settings.RECONCILE_STATEMENT_TIMEOUT_MS)}")
            cursor.execute(f"SET LOCAL lock_timeout = {int(settings.RECONCILE_STATEMENT_TIMEOUT_MS)}")
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_CHAIN_KEY])
        yield
