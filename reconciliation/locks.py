"""One writer of discrepancies at a time: runs of different days, and actions that look at one object again."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from django.conf import settings
from django.db import DatabaseError, OperationalError, connection, transaction
from django.db.backends.utils import CursorWrapper

from foundation.database import LOCK_NOT_AVAILABLE, sqlstate
from reconciliation.errors import BooksBusy

_KEY = 0x5EC0_4C11
_CHAIN_KEY = 0x5EC0_4C12


@contextmanager
def one_writer(*, wait_s: float) -> Iterator[None]:
    """A transaction in which nobody else matches and writes discrepancies. Raises BooksBusy after waiting so long."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            _wait_for_lock(cursor, "SELECT pg_advisory_xact_lock(%s)", wait_s)
        yield


@contextmanager
def one_run(*, wait_s: float) -> Iterator[None]:
    """The same for a run, and everything in it is seen as it stood at one moment: what is counted at its end is what was matched
    at its beginning, however many sales come in meanwhile. Belongs outside of transactions. Raises BooksBusy, and
    OperationalError where somebody changed an item at the same time (40001): then it is done anew.

    The lock comes before the transaction: after it, the moment would be that of the first statement, the wait for the lock.
    """
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        _wait_for_lock(cursor, "SELECT pg_advisory_lock(%s)", wait_s)  # of the session: it outlives this transaction
    try:
        with transaction.atomic(durable=True):
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                cursor.execute(f"SET LOCAL statement_timeout = {int(settings.RECONCILE_STATEMENT_TIMEOUT_MS)}")
            yield
    finally:
        with suppress(DatabaseError), connection.cursor() as cursor:  # a session that has ended holds no lock
            cursor.execute("SELECT pg_advisory_unlock(%s)", [_KEY])


def _wait_for_lock(cursor: CursorWrapper, statement: str, wait_s: float) -> None:
    cursor.execute(f"SET LOCAL statement_timeout = {int(settings.RECONCILE_STATEMENT_TIMEOUT_MS)}")
    cursor.execute(f"SET LOCAL lock_timeout = {int(wait_s * 1000)}")
    try:
        cursor.execute(statement, [_KEY])
    except OperationalError as error:
        if sqlstate(error) != LOCK_NOT_AVAILABLE:
            raise
        raise BooksBusy from error


@contextmanager
def chain_writer() -> Iterator[None]:
    """A transaction in which nobody else adds to the audit chain; taken after `one_writer` where both are needed."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {int(settings.RECONCILE_STATEMENT_TIMEOUT_MS)}")
            cursor.execute(f"SET LOCAL lock_timeout = {int(settings.RECONCILE_STATEMENT_TIMEOUT_MS)}")
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_CHAIN_KEY])
        yield
