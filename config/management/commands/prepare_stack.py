"""`manage.py prepare_stack`: migrate, collect static files, make the demo merchant and the logins. Safe to repeat."""

import json
import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand

from config.bootstrap import ensure_credentials


class Command(BaseCommand):
    help = "Bring database, static files, merchant and logins of a development stack up to date."
    requires_system_checks: list[str] = []  # `manage.py check` has its own place; a start should be quick

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--credentials", type=Path, required=True, help="file for keys and passwords, JSON")
        parser.add_argument("--static", action="store_true", help="collect the static files too")

    def handle(self, *, credentials: Path, static: bool, **_: Any) -> None:
        if static:
            call_command("collectstatic", interactive=False, verbosity=0)
        call_command("migrate", interactive=False, verbosity=0)  # roles and schedules follow every migrate
        known = json.loads(credentials.read_text()) if credentials.exists() else {}
        told = ensure_credentials(known=known).as_json()
        if told != known:
            _write_private(credentials, json.dumps(told, indent=2))


def _write_private(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(text)
    os.replace(new, path)
