"""A kept connection is looked at before each request, and is made anew where the server ended it."""

from contextlib import suppress
from typing import Any

import psycopg
import pytest
from django.core.signals import request_started
from django.db import DataError, connection, transaction

from foundation.database import prepared_cursor
from tests.races import PATIENCE_S

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """What is executed on the connection, by Django or beside it."""
    sent: list[str] = []
    connection.ensure_connection()
    execute = psycopg.Cursor.execute

    def noted(self: Any, query: Any, *args: Any, **how: Any) -> Any:
        sent.append(str(query))
        return execute(self, query, *args, **how)

    monkeypatch.setattr(psycopg.Cursor, "execute", noted)
    return sent


def end_from_outside() -> None:
    """As a restart of the server does."""
    names = connection.settings_dict
    with psycopg.connect(
        host=names["HOST"],
        port=names["PORT"],
        user=names["USER"],
        password=names["PASSWORD"],
        dbname="postgres",
        autocommit=True,
    ) as other:
        pid = connection.connection.info.backend_pid
        other.execute("SELECT pg_terminate_backend(%s, %s)", [pid, PATIENCE_S * 1000])


def test_a_connection_at_rest_is_usable_without_asking(counted):
    assert connection.is_usable()
    assert counted == []


def test_after_an_error_the_server_is_asked(counted):
    connection.errors_occurred = True
    assert connection.is_usable()
    assert counted == ["SELECT 1"]


def test_a_connection_that_the_server_ended_is_not_usable():
    connection.ensure_connection()
    end_from_outside()
    assert not connection.is_usable()
    connection.close()
    assert not connection.is_usable()
    connection.ensure_connection()
    assert connection.is_usable()


def prepared() -> list[tuple[str, int]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement, generic_plans + custom_plans FROM pg_prepared_statements")
        found: list[tuple[str, int]] = cursor.fetchall()
    return found


def double(number: int) -> int:
    with prepared_cursor() as cursor:
        cursor.execute("SELECT %s::int * 2", [number])
        answer: int = cursor.fetchone()[0]
    return answer


def test_what_every_request_sends_is_parsed_once_a_connection():
    connection.close()  # what it has prepared before is forgotten
    assert [double(number) for number in (1, 2, 3)] == [2, 4, 6]
    assert prepared() == [("SELECT $1::int * 2", 3)]


def test_a_prepared_statement_outlives_rolled_back_transactions_and_lost_connections():
    assert double(1) == 2
    with suppress(DataError), transaction.atomic():
        double(2**31)
    assert double(2) == 4
    end_from_outside()
    request_started.send(sender=None)  # as each request does: a connection that the server ended is let go
    assert double(3) == 6
