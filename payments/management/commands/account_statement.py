"""`manage.py account_statement provider_clearing:usd --from 2026-11-01 --to 2026-11-30`. Exit codes: 0, 2 could not run."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from foundation.errors import InvalidInput
from foundation.exports import csv_lines
from foundation.money import format_minor
from payments import books
from payments.management.asked import could_not_run, day, find_account
from payments.models import Account
from payments.tables import STATEMENT_COLUMNS, day_begin, day_end, statement_rows


class Command(BaseCommand):
    help = "Print an account's statement: opening balance, lines with the running balance, closing balance."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("account", help="provider_clearing:usd, merchant_payable:usd:<merchant>, or an id")
        parser.add_argument("--from", type=day, dest="first", required=True, help="first UTC day, as 2026-11-01")
        parser.add_argument("--to", type=day, dest="last", required=True, help="last UTC day, included")
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--csv", action="store_true", help="amounts in major units")
        form.add_argument("--json", action="store_true", help="a document a line, amounts in minor units")

    def handle(self, **options: Any) -> None:
        with could_not_run():
            account = find_account(options["account"])
            since, until = day_begin(options["first"]), day_end(options["last"])
            if until <= since:
                raise InvalidInput("--to lies before --from.")
            if options["csv"]:
                for row in csv_lines(STATEMENT_COLUMNS, statement_rows(account, since, until)):
                    self.stdout.write(row, ending="")
                return
            opening = closing = books.balance(account.pk, at=since)
            is_final = books.statement_is_final(until)
            tell = self._as_json if options["json"] else self._as_text
            tell(account, {"at": since.isoformat(), "opening_minor": opening, "final": is_final})
            for line in books.statement_lines(account.pk, since=since, until=until):
                closing = line.balance_minor
                tell(account, _line(line))
            tell(account, {"at": until.isoformat(), "closing_minor": closing})

    def _as_json(self, account: Account, document: dict[str, Any]) -> None:
        self.stdout.write(json.dumps({"account": str(account.pk), "currency": account.currency, **document}))

    def _as_text(self, account: Account, document: dict[str, Any]) -> None:
        name = next(name for name in ("opening_minor", "closing_minor", "balance_minor") if name in document)
        what = document.get("kind") or name.removesuffix("_minor") + " balance"
        amount = format_minor(document["amount_minor"], account.currency) if "amount_minor" in document else ""
        balance = format_minor(document[name], account.currency)
        self.stdout.write(f"{document['at'][:19]}  {what:<20}{document.get('of', ''):<32}{amount:>18}{balance:>20}")


def _line(line: books.StatementLine) -> dict[str, Any]:
    return {
        "at": line.place.posted_at.isoformat(),
        "entry": str(line.entry_id),
        "kind": line.kind,
        "order": line.reference,
        "of": line.subject,
        "memo": line.memo,
        "by": line.by,
        "corrects": str(line.corrects) if line.corrects else None,
        "amount_minor": line.amount_minor,
        "balance_minor": line.balance_minor,
    }
