"""A kept connection is looked at before each request, and is made anew where the server ended it."""

from typing import Any

import psycopg
import pytest
from django.db import connection

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
