"""Every letter about an order, as files to look at in a browser."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from orders import selectors
from orders.services import letters


class Command(BaseCommand):
    help = "Write every e-mail about an order into a folder, as text and as HTML. Nothing is sent."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("order", help="the order's number, ord_…")
        parser.add_argument("--out", type=Path, default=settings.VAR_DIR / "emails", help="the folder (%(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        order = selectors.get_order(options["order"])
        refund: dict[str, Any] = {"refund": "ref_preview", "amount_minor": order.total_minor // 2}
        failed = refund | {"payment": "pay_preview", "reference": order.number, "currency": order.currency}
        messages = {
            "receipt": letters.receipt(order),
            "shipment": letters.shipment(order),
            "cancellation": letters.cancellation(order),
            "refund": letters.refund_note(order, **refund),
            "staff_refund_failed": letters.failed_refund(**failed, late=False),
            "staff_refund_came_back": letters.failed_refund(**failed, late=True),
        }
        folder: Path = options["out"]
        folder.mkdir(parents=True, exist_ok=True)
        for name, message in messages.items():
            (folder / f"{name}.txt").write_text(f"Subject: {message.subject}\n\n{message.body}")
            page = folder / f"{name}.html"
            page.write_text(str(message.alternatives[0][0]))
            self.stdout.write(str(page))
