"""`manage.py load_trading_day`: a day of sales, declines, refunds and differences, for a new installation.

Safe to repeat: a load that was interrupted goes on, one that ended is left alone.
"""

import logging
import sys
from argparse import ArgumentParser
from typing import Any

import requests
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from rich.console import Console

from config.trading_day.load import Loader
from config.trading_day.progress import Steps
from config.trading_day.provider import Provider
from config.trading_day.summary import summary
from foundation.errors import DomainError

_WIDTH_OF_A_PIPE = 100


class Command(BaseCommand):
    help = "Let a shop trade for a day, by the public API and the Stripe sandbox, and reconcile it."
    requires_system_checks: list[str] = []  # `manage.py check` has its own place; a start should be quick

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the web process (default %(default)s)")

    def handle(self, *, url: str, **_: Any) -> None:
        # Runs alarm about what the statement does not explain. Here that was planted, and the summary tells of it.
        logging.getLogger("reconciliation").setLevel(logging.CRITICAL)
        console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDTH_OF_A_PIPE)
        try:
            loader = Loader(url=url, provider=Provider(settings.STRIPE_API_BASE), steps=Steps(console))
            if loader.already_loaded:
                console.print(f"The day of trading, {loader.date}, is loaded already.", highlight=False)
                return
            report = loader.load()
        except (DomainError, requests.RequestException) as error:
            raise CommandError(str(error)) from error
        console.print(summary(loader, report))
