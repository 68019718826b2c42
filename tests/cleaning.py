"""Empties what a test wrote, and only that.

Django's own flush truncates every table and then makes permissions, content types and roles anew after each test:
half a second that no test here needs, because those rows never change.
"""

from typing import Any

from django.apps import apps
from django.db import connection, transaction
from django.test import TransactionTestCase

_KEPT = {"auth_permission", "auth_group", "auth_group_permissions", "django_content_type", "django_migrations"}


def tables() -> list[str]:
    """Every table that a test may write, sorted."""
    models = apps.get_models(include_auto_created=True)
    tables = {model._meta.db_table for model in models if model._meta.managed and not model._meta.proxy}
    return sorted(tables - _KEPT)


def truncate_what_was_written(self: Any) -> None:
    """Takes the place of TransactionTestCase._fixture_teardown."""
    probes = " UNION ALL ".join(
        f"(SELECT '{table}' FROM {connection.ops.quote_name(table)} LIMIT 1)" for table in tables()
    )
    with connection.cursor() as cursor:
        cursor.execute(probes)
        written = [connection.ops.quote_name(table) for (table,) in cursor.fetchall()]
        if written:
            truncate(written)


def truncate(quoted_tables: list[str]) -> None:
    """Empty tables, past the triggers that forbid it: as a superuser may, and nobody else."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(f"TRUNCATE {', '.join(quoted_tables)} CASCADE")


def install() -> None:
    TransactionTestCase._fixture_teardown = truncate_what_was_written  # type: ignore[attr-defined]
