"""`manage.py check_books`: prove now that the books agree with themselves. Exit codes: 0 they do, 1 they do not, 2 could not run."""

import sys
from datetime import UTC
from typing import Any

from django.core.management.base import BaseCommand

from foundation.database import database_now
from payments import services
from payments.management.asked import could_not_run

AGREE, DIFFER = 0, 1


class Command(BaseCommand):
    help = "Compare the ledger with itself and with payments, refunds and customers' balances; store what differs."

    def handle(self, **options: Any) -> None:
        with could_not_run():
            check = services.check_books(day=database_now().astimezone(UTC).date())
        for one in check.differences:
            self.stdout.write(f"{one['law']} {one['object']}: {one['text']}")
        self.stdout.write(f"{check.rows} rows looked at, {check.found} differences")
        sys.exit(DIFFER if check.found else AGREE)
