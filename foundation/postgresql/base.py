"""Django's PostgreSQL, counted by django-prometheus, with a cheaper look at whether a kept connection still lives, and with
prepared statements for whoever asks for them.
"""

import select
from functools import cached_property
from typing import Any

from django.db.backends.utils import CursorWrapper
from django_prometheus.db.backends.postgresql import base
from django_prometheus.db.common import ExportingCursorWrapper
from psycopg import Cursor


class DatabaseWrapper(base.DatabaseWrapper):  # type: ignore[misc]  # django-prometheus has no types
    """The engine of DATABASES."""

    def is_usable(self) -> bool:
        """Asked once a request, before its first query (CONN_HEALTH_CHECKS).

        A server that ended has closed the socket, or said why: then there is something to read, which there is not on a
        connection at rest. Only then, and after an error, the server is asked: it costs a round trip.
        """
        if self.connection is None or self.connection.closed:
            return False
        if not self.errors_occurred:
            poll = select.poll()
            poll.register(self.connection.fileno(), select.POLLIN)
            if not poll.poll(0):
                return True
        return bool(super().is_usable())

    def prepared_cursor(self) -> CursorWrapper:
        """As `cursor()`, but PostgreSQL parses and plans what it executes once a connection, and is sent the values only."""
        self.close_if_health_check_failed()
        self.ensure_connection()
        with self.wrap_database_errors:
            cursor: CursorWrapper = self._prepare_cursor(self._prepared_class(self.connection))
        return cursor

    @cached_property
    def _prepared_class(self) -> Any:
        return ExportingCursorWrapper(_PreparedCursor, self.alias, self.vendor)


class _PreparedCursor(Cursor[Any]):
    def execute(self, query: Any, params: Any = None, **options: Any) -> "_PreparedCursor":
        return super().execute(query, params, **{"prepare": True, **options})

    def _send_query_prepared(self, name: bytes, pgq: Any, **options: Any) -> None:
        self._query = pgq  # psycopg forgets to, and Django's log of statements shows it
        super()._send_query_prepared(name, pgq, **options)
