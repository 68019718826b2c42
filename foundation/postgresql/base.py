"""Django's PostgreSQL, counted by django-prometheus, with a cheaper look at whether a kept connection still lives."""

import select

from django_prometheus.db.backends.postgresql import base


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
