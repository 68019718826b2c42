"""The check of the database's collation, on databases that PostgreSQL made: it fails just where LIKE could not use a key's index."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import yaml

from config.devstack.stack import PROJECT
from foundation import checks

# Some order of a language (ICU, en_US) is not everywhere to be had; the system's C.UTF-8 is, and PostgreSQL does not go by its bytes.
LOCALES = {
    "ours": ("LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'", True),
    "c": ("LOCALE 'C' LOCALE_PROVIDER libc", True),
    "system": ("LOCALE 'C.UTF-8' LOCALE_PROVIDER libc", False),
}


@contextmanager
def database(name: str, locale: str) -> Iterator[str]:
    """The URL of a database that is made for this, and dropped."""
    url = os.environ["DATABASE_URL"]
    name = f"check_{name}_{os.getpid()}"
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' {locale}")
        try:
            yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def manage(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "manage.py", *arguments]
    return subprocess.run(
        command, cwd=PROJECT, env={**os.environ, "DATABASE_URL": url}, capture_output=True, text=True, timeout=60
    )


def like_uses_the_key(url: str) -> bool:
    with psycopg.connect(url) as here:
        here.execute("CREATE TEMPORARY TABLE keys (id varchar PRIMARY KEY)")
        here.execute("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off")
        plan = here.execute("EXPLAIN SELECT FROM keys WHERE id LIKE 'ch\\_1%'").fetchall()
    return any("Index Cond" in line for (line,) in plan)


@pytest.mark.parametrize("name", LOCALES)
def test_a_database_is_refused_where_like_could_not_use_a_keys_index(name):
    locale, serves = LOCALES[name]
    with database(name, locale) as url:
        done = manage(url, "check", "--database", "default", "--tag", "database")
        assert like_uses_the_key(url) == serves
    assert (done.returncode == 0) == serves, done.stderr
    assert ("everycent.E001" not in done.stderr) == serves


@pytest.mark.parametrize("command", ["migrate", "prepare_stack --credentials credentials.json"])
def test_nothing_is_migrated_into_such_a_database_and_the_error_says_what_to_do(command):
    """Neither by hand or in containers, nor by `make up`."""
    with database("migrated", LOCALES["system"][0]) as url:
        done = manage(url, *command.split())
        with psycopg.connect(url) as here:
            tables = here.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert done.returncode == 1
    assert tables == (0,)
    assert "C.UTF-8 (libc)" in done.stderr
    assert "BUILTIN_LOCALE 'C.UTF-8'" in " ".join(done.stderr.split())


def test_a_database_made_as_the_error_advises_passes():
    with database("advised", checks.REMEDY.partition("ENCODING 'UTF8' ")[2].partition(",")[0]) as url:
        assert manage(url, "check", "--database", "default", "--tag", "database").returncode == 0


def test_containers_make_such_a_database():
    compose = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
    told = set(compose["services"]["postgres"]["environment"]["POSTGRES_INITDB_ARGS"].split())
    assert told >= {"--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"}
