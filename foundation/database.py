"""Small things that every app asks of PostgreSQL."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from django.db import OperationalError, connection
from django.db.models.functions import Now

P = ParamSpec("P")
R = TypeVar("R")

_RETRIED = {"40001", "40P01"}  # serialization failure, deadlock: the whole transaction is safe to run again
_TRIES = 5


def database_now() -> datetime:
    """PostgreSQL's clock: leases, expiry and windows never trust a host's."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now


def in_seconds(seconds: float) -> Any:
    """An expression for "so many seconds from now" by PostgreSQL's clock."""
    return Now() + timedelta(seconds=seconds)


def sqlstate(error: BaseException) -> str:
    """PostgreSQL's five-letter code of an error, empty if it has none."""
    return str(getattr(error.__cause__, "sqlstate", "") or "")


def violated_constraint(error: BaseException) -> str:
    """The name of the constraint that refused a row, empty if none did."""
    return str(getattr(getattr(error.__cause__, "diag", None), "constraint_name", "") or "")


def retry_conflicts(work: Callable[P, R]) -> Callable[P, R]:
    """Run a function that makes its own outermost transaction again after a deadlock or a serialization failure."""

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        for attempt in range(1, _TRIES + 1):
            try:
                return work(*args, **kwargs)
            except OperationalError as error:
                if sqlstate(error) not in _RETRIED or attempt == _TRIES or connection.in_atomic_block:
                    raise
        raise AssertionError("unreachable")

    return run
