"""`manage.py prepare_stack`: migrate, collect static files, make the demo merchant and the logins. Safe to repeat."""

import json
import os
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import redis
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, connection
from django.db.migrations.executor import MigrationExecutor

from config.bootstrap import ensure_credentials


class Command(BaseCommand):
    help = "Bring database, static files, merchant and logins of a development stack up to date."
    requires_system_checks: list[str] = []  # `manage.py check` has its own place; a start should be quick

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--credentials", type=Path, required=True, help="file for keys and passwords, JSON")
        parser.add_argument("--wait", type=float, default=5, help="seconds to wait for servers that still start")
        parser.add_argument("--static", action="store_true", help="collect the static files too")

    def handle(self, *, credentials: Path, wait: float, static: bool, **_: Any) -> None:
        if static:
            call_command("collectstatic", interactive=False, verbosity=0)
        deadline = time.monotonic() + wait
        _wait_for_database(deadline)
        _wait_for_redis(deadline)
        if _migrations_are_pending():
            call_command("migrate", interactive=False, verbosity=0)
        known = json.loads(credentials.read_text()) if credentials.exists() else {}
        told = ensure_credentials(known=known).as_json()
        if told != known:
            _write_private(credentials, json.dumps(told, indent=2))


def _wait_for_database(deadline: float) -> None:
    while True:
        try:
            connection.ensure_connection()
        except OperationalError as error:
            reason = " ".join(str(error).split())
            # A server that answers with a refusal will not change its mind; one that is not there yet may come.
            if ("FATAL" in reason and "starting up" not in reason) or time.monotonic() > deadline:
                raise CommandError(f"DATABASE_URL: {reason}") from error
            time.sleep(0.1)
        else:
            return


def _wait_for_redis(deadline: float) -> None:
    client = redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=settings.REDIS_TIMEOUT_S)
    while True:
        try:
            client.ping()
        except redis.RedisError as error:
            if isinstance(error, redis.AuthenticationError) or time.monotonic() > deadline:
                raise CommandError(f"REDIS_URL: {error}") from error
            time.sleep(0.1)
        else:
            return


def _migrations_are_pending() -> bool:
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def _write_private(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(text)
    os.replace(new, path)
