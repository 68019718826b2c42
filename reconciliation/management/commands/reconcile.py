"""`manage.py reconcile`: compare days of the provider's books with ours.

Exit codes: 0 nothing open, 1 discrepancies open (timing items do not count, a residual does), 2 could not run.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from rich.console import Console
from rich.table import Table

from foundation.database import database_now
from foundation.errors import DomainError
from foundation.money import format_minor
from reconciliation import books, rules, selectors, services, tables
from reconciliation.management.commands.import_statement import a_day, take_in, tell
from reconciliation.services.importing import Progress
from reconciliation.types import KINDS, RunReport, WhatIf

NOTHING_OPEN, DISCREPANCIES_OPEN, COULD_NOT_RUN = 0, 1, 2
LONGEST_RANGE_DAYS = 366  # one run a day: a typing error in a year shall not start thousands


class Command(BaseCommand):
    help = "Compare a day (yesterday, unless told otherwise) of Stripe's books with ours, and store what differs."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--date", type=a_day, help="the UTC day, as 2026-11-19; without it, yesterday")
        parser.add_argument("--from", type=a_day, dest="first", help="with --to: every day of a range, both included")
        parser.add_argument("--to", type=a_day, dest="last")
        parser.add_argument("--dry-run", action="store_true", help="store neither runs nor discrepancies")
        parser.add_argument("--json", action="store_true", help="print one JSON document")
        parser.add_argument(
            "--statement",
            metavar="FILE",
            type=Path,
            help="compare with what this statement file says, and ask Stripe nothing; without days, with all of the file's",
        )
        parser.add_argument(
            "--what-if",
            metavar="RULES",
            type=Path,
            help="a TOML or JSON file of changed rules: which matches of the days would be gained, lost or flipped. Asks "
            "Stripe nothing and writes nothing",
        )

    def handle(self, **options: Any) -> None:
        try:
            if options["what_if"]:
                self._what_if(options)
            days = self._take_in(options) if options["statement"] else _days(options)
            reports = [self._reconcile(day, options) for day in days]
            reports = [report for asked in reports for report in (*asked.run_again, asked)]
            still_open = any(report.open_count or any(report.residual.values()) for report in reports)
            still_open = still_open or bool(selectors.open_between(days[0], days[-1]))
        except (DomainError, DatabaseError) as error:
            detail = error.detail if isinstance(error, DomainError) else f"the database does not answer: {error}"
            raise CommandError(f"Could not run: {detail}", returncode=COULD_NOT_RUN) from error
        if options["json"]:
            self.stdout.write(json.dumps({"runs": [as_json(report) for report in reports]}))
        sys.exit(DISCREPANCIES_OPEN if still_open else NOTHING_OPEN)

    def _take_in(self, options: dict[str, Any]) -> list[date]:
        """The statement file, and the days that it is compared for."""
        asked = any(options[name] for name in ("date", "first", "last"))
        days = _days(options) if asked else []
        expected = {"first_day": days[0], "last_day": days[-1]} if days else {}
        report = take_in(options["statement"], expected, by="manage.py reconcile")
        if report.problems:
            tell(self, report)
            raise CommandError("Could not run: nothing of the statement was taken in.", returncode=COULD_NOT_RUN)
        if not days and (report.first_day is None or report.last_day is None):
            raise DomainError(f"{report.name} has no rows: say which days it is about.")
        begin = max(report.first_day, books.starts_on() or report.first_day) if report.first_day else None
        return days or _days(options | {"first": begin, "last": report.last_day})

    def _reconcile(self, day: date, options: dict[str, Any]) -> RunReport:
        with self._progress(day, quiet=options["json"]) as progress:
            report = services.reconcile_day(
                day=day,
                by="manage.py reconcile",
                dry_run=options["dry_run"],
                from_files=bool(options["statement"]),
                progress=progress,
            )
        if not options["json"]:
            for again in report.run_again:
                self.stdout.write(f"{again.date} changed since it was run, and was run again:")
                self._tell(again)
            self._tell(report)
        return report

    def _what_if(self, options: dict[str, Any]) -> NoReturn:
        """Exit codes as ever, of what would be: 1 where differences of these days would be open."""
        if options["statement"]:
            raise DomainError("--what-if looks at rows that are there: take the statement in first.")
        tried = services.try_rules(days=_days(options), by=rules.read_file(options["what_if"]))
        if options["json"]:
            self.stdout.write(json.dumps({"what_if": [_what_if_json(one) for one in tried]}))
        else:
            for one in tried:
                self._tell_what_if(one)
        sys.exit(DISCREPANCIES_OPEN if any(one.open_after for one in tried) else NOTHING_OPEN)

    def _tell_what_if(self, tried: WhatIf) -> None:
        self.stdout.write(
            f"{tried.day}: {tried.gained} gained, {tried.lost} lost, {tried.flipped} flipped;"
            f" {tried.matched_before} matched now, {tried.matched_after} with these rules, {tried.open_after} would be open"
        )
        for one in tried.changes:
            amount = format_minor(one.theirs_minor, one.currency)
            number = one.ours_after or one.ours_before
            left = f", {format_minor(one.difference_minor, one.currency)} apart" if one.difference_minor else ""
            self.stdout.write(
                f"  {one.change:<8}{one.object_kind} {one.source} {amount}"
                f"{f' with {number}' if number else ''}: {_words(one.before)} → {_words(one.after)}{left}"
            )
        more = tried.gained + tried.lost + tried.flipped - len(tried.changes)
        if more:
            self.stdout.write(f"  … and {more} more")

    @contextmanager
    def _progress(self, day: date, *, quiet: bool) -> Iterator[Progress]:
        """A moving line on a terminal; nothing in a pipe, where the result's lines follow."""
        console = Console(file=sys.stderr)
        if quiet or not console.is_terminal:
            yield lambda rows: None
            return
        with console.status(f"{day}: reading Stripe's books") as status:
            yield lambda rows: status.update(f"{day}: {rows:,} rows of Stripe's books read")

    def _tell(self, report: RunReport) -> None:
        lines = [
            f"{report.date}{' (provisional: the day is not over)' if report.provisional else ''}:"
            f" {report.matched} matched in {report.duration_ms / 1000:.1f} s",
            f"  ours   {report.ours_count:>7} movements  {_totals(report.ours_totals)}",
            f"  Stripe {report.theirs_count:>7} rows       {_totals(report.theirs_totals)}",
        ]
        if any(report.residual.values()):
            lines.append(f"  residual that nothing accounts for: {_totals(report.residual)}")
        lines += [f"  not proved: {told}" for told in tables.told_not_made(report.statement.values())]
        self.stdout.write("\n".join(lines))
        if not report.kinds:
            self.stdout.write("  no discrepancies")
        elif self.stdout.isatty():
            Console().print(_table(report))
        else:
            for kind, counts in report.kinds.items():
                figures = "  ".join(f"{name} {count}" for name, count in asdict(counts).items())
                self.stdout.write(f"  {kind}: {figures}")


def _what_if_json(tried: WhatIf) -> dict[str, Any]:
    return asdict(tried) | {"day": tried.day.isoformat()}


def _words(why: str) -> str:
    return why.replace("_", " ") or "nothing"


def as_json(report: RunReport) -> dict[str, Any]:
    """A run as the command promises it to scripts."""
    return {
        "date": report.date.isoformat(),
        "provisional": report.provisional,
        "ours": {"count": report.ours_count, "totals": report.ours_totals},
        "theirs": {"count": report.theirs_count, "totals": report.theirs_totals},
        "matched": report.matched,
        "discrepancies": {kind: asdict(counts) for kind, counts in report.kinds.items()},
        "residual": report.residual,
        "not_proved": tables.not_made(report.statement.values()),
        "duration_s": report.duration_ms / 1000,
    }


def _table(report: RunReport) -> Table:
    table = Table("difference", box=None)
    for column in ("new", "persisting", "resolved", "timing"):
        table.add_column(column, justify="right")
    for kind, counts in report.kinds.items():
        table.add_row(KINDS[kind].label, *(str(count) for count in asdict(counts).values()))
    return table


def _totals(totals: dict[str, int]) -> str:
    return ", ".join(format_minor(amount, currency) for currency, amount in sorted(totals.items())) or "nothing"


def _days(options: dict[str, Any]) -> list[date]:
    first, last = options["first"], options["last"]
    if (options["date"] and (first or last)) or bool(first) != bool(last):
        raise DomainError("give --date alone, or --from and --to together.")
    if not first:
        day = options["date"] or database_now().date() - timedelta(days=1)
        return [day]
    if not 0 <= (last - first).days < LONGEST_RANGE_DAYS:
        raise DomainError(f"--from must not be after --to, nor more than {LONGEST_RANGE_DAYS} days before it.")
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
