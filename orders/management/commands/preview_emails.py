"""Every letter about an order, as files to look at in a browser."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from orders import selectors
from orders.services import letters
from payments.events import DisputeOpened, RefundFailed


class Command(BaseCommand):
    help = "Write every e-mail about an order into a folder, as text and as HTML. Nothing is sent."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("order", help="the order's number, ord_…")
        parser.add_argument("--out", type=Path, default=settings.VAR_DIR / "emails", help="the folder (%(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        order = selectors.get_order(options["order"])
        half_minor = order.total_minor // 2
        about = {
            "payment": "pay_preview",
            "merchant_id": str(order.merchant_id),
            "reference": order.number,
            "currency": order.currency,
            "provider_reference": "",
            "amount_minor": half_minor,
        }
        disputed = about | {"dispute": "dsp_preview", "reason": "fraudulent", "evidence_due_at": "2030-01-31T23:59:00Z"}
        messages = {
            "receipt": letters.receipt(order),
            "shipment": letters.shipment(order),
            "cancellation": letters.cancellation(order),
            "refund": letters.refund_note(order, refund="ref_preview", amount_minor=half_minor),
            "staff_refund_failed": letters.failed_refund(RefundFailed.from_payload(about | {"refund": "ref_preview"})),
            "staff_refund_came_back": letters.failed_refund(
                RefundFailed.from_payload(about | {"refund": "ref_preview", "late": True})
            ),
            "staff_inquiry": letters.dispute(DisputeOpened.from_payload(disputed | {"inquiry": True})),
            "staff_dispute": letters.dispute(DisputeOpened.from_payload(disputed | {"inquiry": False})),
        }
        folder: Path = options["out"]
        folder.mkdir(parents=True, exist_ok=True)
        for name, message in messages.items():
            (folder / f"{name}.txt").write_text(f"Subject: {message.subject}\n\n{message.body}")
            page = folder / f"{name}.html"
            page.write_text(str(message.alternatives[0][0]))
            self.stdout.write(str(page))
