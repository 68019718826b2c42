"""System checks of the database, made by every `manage.py migrate` and by `manage.py check --database default`."""

from collections.abc import Sequence
from typing import Any

from django.core.checks import Error, Tags, register
from django.db import connections

# What PostgreSQL itself goes by: with these alone the order of a key's index is that of its bytes. "C.UTF-8" is one of them
# where PostgreSQL brings it (`builtin`), and none where the operating system does (`libc`).
_COLLATION = """
SELECT datname, CASE datlocprovider WHEN 'b' THEN 'builtin' WHEN 'i' THEN 'icu' ELSE 'libc' END,
       CASE datlocprovider WHEN 'c' THEN datcollate ELSE datlocale END,
       datlocprovider = 'b' OR datlocprovider = 'c' AND datcollate IN ('C', 'POSIX')
FROM pg_database WHERE datname = current_database()
"""
REMEDY = (
    "Create the database with CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER builtin"
    " BUILTIN_LOCALE 'C.UTF-8', and move the data there with pg_dump and pg_restore."
)


@register(Tags.database)
def check_collation(*, databases: Sequence[str] | None = None, **_: Any) -> list[Error]:
    """Keys are looked for by their beginnings, with no index beside their own: in any other order that reads whole tables."""
    found = []
    for alias in databases or ():
        with connections[alias].cursor() as cursor:
            cursor.execute(_COLLATION)
            name, provider, locale, by_bytes = cursor.fetchone()
        if not by_bytes:
            text = f'The database "{name}" sorts text as {locale} ({provider}), not by its bytes: each look-up of a key by its'
            found.append(Error(f"{text} beginning would read a whole table.", hint=REMEDY, id="everycent.E001"))
    return found
