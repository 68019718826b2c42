"""`manage.py prepare_stack`: migrate, collect static files, make the demo merchant and the logins. Safe to repeat."""

import json
import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.checks import Tags, run_checks
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

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
        _refuse_unsuitable_database()
        call_command("migrate", interactive=False, verbosity=0)  # roles and schedules follow every migrate
        known = json.loads(credentials.read_text()) if credentials.exists() else {}
        told = ensure_credentials(known=known).as_json()
        if told != known:
            _write_private(credentials, json.dumps(told, indent=2))


def _refuse_unsuitable_database() -> None:
    """One of a server of one's own. In one line, because `make up` passes the last one on."""
    found = run_checks(tags=[Tags.database], databases=["default"])
    if wrong := [f"{one.msg} {one.hint or ''}".strip() for one in found if one.is_serious()]:
        raise CommandError(" ".join(wrong))


def _write_private(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(text)
    os.replace(new, path)
