"""Import books from a CSV file.

    manage.py import_catalog books.csv --currency usd --price 1500

Exit codes: 0 all rows landed, 1 some were refused (each is named with its line), 2 the import could not run.
"""

import csv
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from rich.progress import Progress

from catalog import selectors, services
from catalog.imports import OPTIONAL, REQUIRED
from catalog.types import MerchantTerms, Refusal
from foundation.errors import DomainError
from foundation.money import MAX_AMOUNT_MINOR

# Shown in a pipe, where there is no bar to watch.
_LINES_BETWEEN_SIGNS_OF_LIFE = 100_000


class Command(BaseCommand):
    """Reads a CSV file whose first line names its columns: docs/catalogue.md, and the desk's export of products."""

    help = f"Import books from a CSV file (columns {', '.join(REQUIRED)}; optional {', '.join(OPTIONAL)})"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", type=Path)
        parser.add_argument("--merchant", metavar="NAME", help="whose books these are; may be left out if there is one")
        parser.add_argument("--currency", help="of new books that name none (default: the merchant's)")
        parser.add_argument(
            "--price", type=int, default=1500, help="of new books that name none, in minor units (default: 1500)"
        )
        parser.add_argument("--report", metavar="FILE", type=Path, help="also write the refused rows here, as CSV")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            refused = self._import(**options)
        except (DomainError, OSError, DatabaseError) as error:
            raise CommandError(f"Not imported: {_one_line(error)}", returncode=2) from None
        if refused:
            sys.exit(1)

    def _import(
        self, *, file: Path, merchant: str | None, currency: str | None, price: int, report: Path | None, **_: Any
    ) -> int:
        if not 0 <= price <= MAX_AMOUNT_MINOR:
            raise CommandError(f"--price is from 0 to {MAX_AMOUNT_MINOR} minor units", returncode=2)
        owner = _merchant(merchant)
        with report.open("w", newline="") if report else nullcontext() as target:
            rows = csv.writer(target) if target else None
            if rows:
                rows.writerow(["line", "reason"])

            def refuse(refusal: Refusal) -> None:
                self.stdout.write(f"line {refusal.line}: {refusal.reason}")
                if rows:
                    rows.writerow([refusal.line, refusal.reason])

            done = services.import_products(
                merchant_id=owner.id,
                lines=_lines(file, self.stdout),
                currency=currency or owner.currency,
                price_minor=price,
                on_refused=refuse,
            )
        self.stdout.write(
            f"{owner.name}: {done.created:,} created, {done.changed:,} changed, {done.unchanged:,} unchanged, "
            f"{done.refused:,} refused"
        )
        return done.refused


def _merchant(name: str | None) -> MerchantTerms:
    merchants = selectors.list_merchants()
    found = [merchant for merchant in merchants if name in (None, merchant.name)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(merchant.name for merchant in merchants[:10]) or "none yet"
    problem = f"no merchant is called {name}" if name else "say whose books these are with --merchant NAME"
    raise CommandError(f"Not imported: {problem} (merchants: {names})", returncode=2)


def _lines(path: Path, out: Any) -> Iterator[str]:
    """The file's lines, with a bar on a terminal and a line now and then in a pipe; what follows them is said, too."""
    number = 0
    if sys.stdout.isatty():
        with Progress(transient=True) as bar, bar.open(path, "rt", encoding="utf-8-sig", newline="") as watched:
            for line in watched:
                number += 1
                yield line
    else:
        with path.open(encoding="utf-8-sig", newline="") as plain:
            for number, line in enumerate(plain, start=1):
                yield line
                if number % _LINES_BETWEEN_SIGNS_OF_LIFE == 0:
                    out.write(f"{number:,} lines read")
    if (
        number >= _LINES_BETWEEN_SIGNS_OF_LIFE
    ):  # from here on PostgreSQL works alone, for a minute where there are millions
        out.write(f"all {number:,} lines read, now they land")


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return " ".join(str(error).split())
