"""`manage.py audit_pack 2026-10`: write an auditor's pack of a closed month. `audit_pack --verify FILE` checks one, without
a database.

Exit codes: 0 written, or intact; 1 not intact; 2 could not run.
"""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from foundation.errors import DomainError
from reconciliation import packs, services
from reconciliation.management.commands.close_period import a_month
from reconciliation.management.commands.import_statement import COULD_NOT_RUN

NOT_INTACT = 1


class Command(BaseCommand):
    help = "Write an auditor's pack of a closed month, or check one with --verify."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("period", type=a_month, nargs="?", help="the month, as 2026-10")
        parser.add_argument("--output", type=Path, help="where to write it; without it, audit-pack-2026-10.zip here")
        parser.add_argument("--verify", type=Path, metavar="FILE", help="check this pack instead")
        parser.add_argument(
            "--head",
            default="",
            metavar="HASH",
            help="with --verify: the chain has to pass through this block's sha256",
        )

    def handle(self, **options: Any) -> None:
        if options["verify"]:
            self._verify(options)
        elif options["period"]:
            self._write(options)
        else:
            raise CommandError("Could not run: name the month, as 2026-10.", returncode=COULD_NOT_RUN)

    def _write(self, options: dict[str, Any]) -> None:
        path = options["output"] or Path(f"audit-pack-{options['period']:%Y-%m}.zip")
        try:
            report = services.write_pack(period=options["period"], path=path)
        except OSError as error:
            raise CommandError(f"Could not run: {path}: {error.strerror}", returncode=COULD_NOT_RUN) from error
        except (DomainError, DatabaseError) as error:
            detail = error.detail if isinstance(error, DomainError) else f"the database does not answer: {error}"
            raise CommandError(f"Could not run: {detail}", returncode=COULD_NOT_RUN) from error
        self.stdout.write(f"{report.path}: {report.rows} rows")
        self.stdout.write(f"head of the chain: {report.head} (block {report.blocks}); note it elsewhere")

    def _verify(self, options: dict[str, Any]) -> None:
        path, month = options["verify"], options["period"]
        try:
            verdict = packs.verify(path, period=f"{month:%Y-%m}" if month else "", head=options["head"])
        except OSError as error:
            raise CommandError(f"Could not run: {path}: {error.strerror}", returncode=COULD_NOT_RUN) from error
        for problem in verdict.problems:
            self.stderr.write(f"{path.name}: {problem}")
        if verdict.problems:
            raise CommandError(f"{path.name} is not intact.", returncode=NOT_INTACT)
        self.stdout.write(f"{path.name} is intact: {verdict.period}, {verdict.blocks} blocks")
        for name, rows in verdict.rows.items():
            self.stdout.write(f"  {name:<18}{rows:>10} rows")
        self.stdout.write(f"head of the chain: {verdict.head}")
        if not options["head"]:
            self.stdout.write(
                "Hold it against a head that was noted elsewhere (--head): that the whole was not written anew,"
            )
            self.stdout.write("the pack alone cannot prove.")
