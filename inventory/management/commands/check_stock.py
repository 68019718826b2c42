"""`manage.py check_stock`: prove now that the stock agrees with its log. Exit codes: 0 it does, 1 it does not, 2 could not run."""

import sys
from datetime import UTC
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError

from foundation.database import database_now
from inventory import services

AGREE, DIFFER, COULD_NOT_RUN = 0, 1, 2


class Command(BaseCommand):
    """Prints what differs, and stores it as the proof of today."""

    help = "Compare all stock with its log and with open reservations; store what differs."

    def handle(self, **options: Any) -> None:
        try:
            check = services.check_stock(day=database_now().astimezone(UTC).date())
        except DatabaseError as error:
            raise CommandError(f"Not checked: {' '.join(str(error).split())}", returncode=COULD_NOT_RUN) from None
        for one in check.differences:
            self.stdout.write(f"{one['law']} {one['product']}: {one['text']}")
        self.stdout.write(f"{check.products} products and {check.movements} movements, {check.found} differences")
        sys.exit(DIFFER if check.found else AGREE)
