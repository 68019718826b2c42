"""Small things that every app asks of PostgreSQL."""

from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

from django.db import OperationalError, connection, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import Model, QuerySet
from django.db.models.functions import Now

T = TypeVar("T")
Row = TypeVar("Row", bound=Model)

LOCK_NOT_AVAILABLE = "55P03"  # PostgreSQL's code where lock_timeout ended a wait
_TRIES = 3  # of two that block each other one goes on; who loses three times meets a crowd, and had better wait outside
DEADLOCK, SERIALIZATION_FAILURE = "40P01", "40001"
_ROLLED_BACK_FOR_OTHERS = (DEADLOCK, SERIALIZATION_FAILURE)
BECAUSE_OF_OTHERS = (*_ROLLED_BACK_FOR_OTHERS, LOCK_NOT_AVAILABLE)  # for work that has time to wait once more


def in_transaction(work: Callable[[], T]) -> T:
    """Do `work` in an outermost transaction and commit it. Where PostgreSQL rolls it back for the sake of another one
    (deadlock, serialization failure), it is done anew: `work` may run several times, and must leave nothing behind
    but rows.
    """

    def once() -> T:
        with transaction.atomic(durable=True):
            return work()

    return tried_again(once)


def tried_again(work: Callable[[], T], *, after: Collection[str] = _ROLLED_BACK_FOR_OTHERS) -> T:
    """The same for `work` that is a transaction of its own: a single statement, for instance. `after` which codes."""
    for tries_left in reversed(range(_TRIES)):
        try:
            return work()
        except OperationalError as error:
            if not tries_left or sqlstate(error) not in after:
                raise
    raise AssertionError("unreachable")


def prepared_cursor() -> CursorWrapper:
    """A cursor for the few statements that every request sends. PostgreSQL parses and plans each once a connection; all others
    are put together by Django, each time another text.
    """
    cursor: CursorWrapper = cast("Any", connection).prepared_cursor()
    return cursor


def database_now() -> datetime:
    """PostgreSQL's clock: leases, expiry and windows never trust a host's."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now


def in_seconds(seconds: float) -> Any:
    """An expression for "so many seconds from now" by PostgreSQL's clock."""
    return Now() + timedelta(seconds=seconds)


def connections_used() -> tuple[int, int]:
    """(connections to the server, of all databases; the most that it gives to others than superusers)."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT (SELECT sum(numbackends) FROM pg_stat_database)::int,
                   current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
                   - current_setting('reserved_connections')::int
            """
        )
        used, limit = cursor.fetchone()
    return used, limit


def sqlstate(error: BaseException) -> str:
    """PostgreSQL's five-letter code of an error, empty if it has none."""
    return str(getattr(error.__cause__, "sqlstate", "") or "")


def violated_constraint(error: BaseException) -> str:
    """The name of the constraint that refused a row, empty if none did."""
    return str(getattr(getattr(error.__cause__, "diag", None), "constraint_name", "") or "")


def newest_first(rows: QuerySet[Row], *, batch: int) -> Iterator[Row]:
    """All rows by falling primary key, read a batch at a time: no transaction and no cursor stays open meanwhile."""
    rows = rows.order_by("-pk")
    found = list(rows[:batch])
    while found:
        yield from found
        found = list(rows.filter(pk__lt=found[-1].pk)[:batch]) if len(found) == batch else []


def delete_in_batches(rows: QuerySet[Any], *, batch: int) -> int:
    """Delete rows, oldest first, in batches of their own transaction. What somebody holds a lock on stays for next time.

    Returns how many. Rows that cascade from them go with them.
    """
    deleted = 0
    while True:
        with transaction.atomic(durable=True):
            pks = list(
                rows.select_for_update(skip_locked=True, of=("self",))
                .order_by("pk")
                .values_list("pk", flat=True)[:batch]
            )
            if pks:
                rows.model._default_manager.filter(pk__in=pks).delete()
        deleted += len(pks)
        if len(pks) < batch:
            return deleted
