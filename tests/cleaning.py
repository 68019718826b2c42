"""Empties what a test wrote, and only that.

Django's own flush truncates every table and then makes permissions, content types and roles anew after each test:
half a second that no test here needs, because those rows never change.
"""

from typing import Any

from django.apps import apps
from django.db import connection, transaction
from django.test import TransactionTestCase

from foundation.database import prepared_cursor

# Below this, DELETE costs a tenth of TRUNCATE, which makes new files for a table and each of its indexes.
_SMALL_BYTES = 512 * 1024
_KEPT = {"auth_permission", "auth_group", "auth_group_permissions", "django_content_type", "django_migrations"}


def tables() -> list[str]:
    """Every table that a test may write, sorted."""
    models = apps.get_models(include_auto_created=True)
    tables = {model._meta.db_table for model in models if model._meta.managed and not model._meta.proxy}
    return sorted(tables - _KEPT)


def forget_what_was_written(self: Any) -> None:
    """Takes the place of TransactionTestCase._fixture_teardown."""
    if connection.connection and not connection.is_usable():
        connection.close()  # a test that ended it
    probes = " UNION ALL ".join(
        f"(SELECT '{name}', pg_relation_size('{name}') FROM {name} LIMIT 1)" for name in map(_quoted, tables())
    )
    with prepared_cursor() as cursor:
        cursor.execute(probes)
        written = cursor.fetchall()
    small = [f"DELETE FROM {name}" for name, size in written if size <= _SMALL_BYTES]
    large = [name for name, size in written if size > _SMALL_BYTES]
    if small:
        _past_the_triggers("; ".join(small))
    if large:
        truncate(large)


def truncate(quoted_tables: list[str]) -> None:
    """Empty tables whatever refers to them."""
    _past_the_triggers(f"TRUNCATE {', '.join(quoted_tables)} CASCADE")


def forget_all_rows() -> None:
    """Of tables that hold a few each."""
    _past_the_triggers("; ".join(f"DELETE FROM {_quoted(name)}" for name in tables()))


def _past_the_triggers(statements: str) -> None:
    """They forbid to empty books. A superuser passes them, and nobody else."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(statements)


def _quoted(table: str) -> str:
    return str(connection.ops.quote_name(table))


def install() -> None:
    TransactionTestCase._fixture_teardown = forget_what_was_written  # type: ignore[attr-defined]
    # Nor a new connection for each test, whose first statements would be parsed, planned and compiled anew.
    TransactionTestCase._should_reload_connections = lambda _: False  # type: ignore[attr-defined]
