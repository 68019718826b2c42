"""`manage.py trial_balance`: debits and credits of the books as of a moment.

Exit codes: 0 every currency balances, 1 one does not, 2 could not run.
"""

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from foundation.database import database_now
from foundation.exports import csv_lines
from foundation.money import format_minor
from payments import books
from payments.management.asked import could_not_run, moment
from payments.tables import TRIAL_COLUMNS, trial_rows, trial_totals

BALANCES, DOES_NOT_BALANCE = 0, 1


class Command(BaseCommand):
    help = "Print the trial balance: per currency, Σ debit = Σ credit."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--at", type=moment, help="as of 2026-11-19T08:00Z, or the end of the UTC day 2026-11-19")
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--csv", action="store_true", help="amounts in major units, a row an account kind")
        form.add_argument("--json", action="store_true", help="one document, amounts in minor units")

    def handle(self, **options: Any) -> None:
        with could_not_run():
            trial = books.trial_balance(at=options["at"] or database_now())
        if options["csv"]:
            for line in csv_lines(TRIAL_COLUMNS, trial_rows(trial)):
                self.stdout.write(line, ending="")
        elif options["json"]:
            self.stdout.write(json.dumps(as_json(trial)))
        else:
            self._tell(trial)
        off = any(trial.off_minor(currency) for currency in trial.currencies)
        sys.exit(DOES_NOT_BALANCE if off else BALANCES)

    def _tell(self, trial: books.TrialBalance) -> None:
        state = "final" if trial.is_final else "provisional"
        self.stdout.write(f"Trial balance as of {trial.at:%Y-%m-%d %H:%M:%S} UTC ({state})")
        for currency in trial.currencies:
            lines = trial.of(currency)
            self.stdout.write(f"\n{currency.upper()}")
            for line in lines:
                side = "Dr" if line.balance_minor >= 0 else "Cr"
                self.stdout.write(f"  {line.label:<24}{format_minor(abs(line.balance_minor), currency):>20} {side}")
            _, _, debit, credit = trial_totals(lines)
            verdict = "balances" if debit == credit else "DOES NOT BALANCE"
            sums = f"{format_minor(debit, currency)} Dr, {format_minor(credit, currency)} Cr"
            self.stdout.write(f"  {'Total':<24}{sums}: {verdict}")


def as_json(trial: books.TrialBalance) -> dict[str, Any]:
    """The document that scripts read."""
    return {
        "at": trial.at.isoformat(),
        "final": trial.is_final,
        "currencies": {
            currency: {
                "accounts": [
                    {
                        "kind": line.kind,
                        "debit_minor": line.debit_minor,
                        "credit_minor": line.credit_minor,
                        "balance_minor": line.balance_minor,
                    }
                    for line in trial.of(currency)
                ],
                "off_minor": trial.off_minor(currency),
            }
            for currency in trial.currencies
        },
    }
