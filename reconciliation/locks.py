"""One writer of discrepancies at a time: runs of different days, and actions that look at one object again. And one keeper of the
lines of a bank account.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from django.conf import settings
from django.db import Error, OperationalError, connection, transaction
from django.db.backends.utils import CursorWrapper

from foundation.database import LOCK_NOT_AVAILABLE, sqlstate
from reconciliation.errors import BooksBusy
from reconciliation.limits import set_for_long_work

_KEY = 0x5EC0_4C11
_CHAIN_KEY = 0x5EC0_4C12
_HELPERS_KEY = 0x5EC0_4C13
_ACCOUNT_BUSY = (
    "Another statement of this bank account is being taken in, and of this file nothing is: try again in a minute."
)
_LATER_S = 5  # than the wait for a lock ends the statement that waits: else nobody could tell why


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

    The lock comes before the transaction: after it, the moment would be that of the first statement, the wait for the lock. And
    helpers of a run that has died have written what they write (`helping`): its end is within that moment.
    """
    try:
        with transaction.atomic(durable=True), connection.cursor() as cursor:
            # Of the session, since they outlive this transaction.
            _wait_for_lock(cursor, "SELECT pg_advisory_lock(%s)", wait_s)
            _wait_for_lock(cursor, "SELECT pg_advisory_xact_lock(%s)", wait_s, _HELPERS_KEY)
        with transaction.atomic(durable=True):
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                set_for_long_work(cursor)
                cursor.execute(f"SET LOCAL lock_timeout = {int(wait_s * 1000)}")
            yield
    finally:
        _unlock("SELECT pg_advisory_unlock(%s)", _KEY)


@contextmanager
def helping() -> Iterator[None]:
    """While somebody helps a run: no other run begins. Belongs outside of transactions."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock_shared(%s)", [_HELPERS_KEY])
        yield
    finally:
        _unlock("SELECT pg_advisory_unlock_shared(%s)", _HELPERS_KEY)


def _unlock(statement: str, key: int) -> None:
    """Give back a lock of the session, if it was got. A session that cannot be asked is ended, and its locks with it."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, [key])
    except Error:
        connection.close()


def one_keeper(accounts: Iterable[str], *, wait_s: float) -> None:
    """Nobody else takes in statements of these bank accounts, to the end of the transaction. Raises BooksBusy after waiting so long."""
    with connection.cursor() as cursor:
        for account in sorted(set(accounts)):
            lock = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
            _wait_for_lock(cursor, lock, wait_s, f"bank account {account}", busy=_ACCOUNT_BUSY)
        set_for_long_work(cursor)


def _wait_for_lock(
    cursor: CursorWrapper, statement: str, wait_s: float, key: int | str = _KEY, *, busy: str = ""
) -> None:
    longest_ms = max(settings.RECONCILE_STATEMENT_TIMEOUT_MS, (wait_s + _LATER_S) * 1000)
    cursor.execute(f"SET LOCAL statement_timeout = {int(longest_ms)}")
    cursor.execute(f"SET LOCAL lock_timeout = {int(wait_s * 1000)}")
    try:
        cursor.execute(statement, [key])
    except OperationalError as error:
        if sqlstate(error) != LOCK_NOT_AVAILABLE:
            raise
        raise BooksBusy(busy) from error


@contextmanager
def chain_writer() -> Iterator[None]:
    """A transaction in which nobody else adds to the audit chain; taken after `one_writer` where both are needed."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            set_for_long_work(cursor)
            cursor.execute(f"SET LOCAL lock_timeout = {int(settings.RECONCILE_STATEMENT_TIMEOUT_MS)}")
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_CHAIN_KEY])
        yield
