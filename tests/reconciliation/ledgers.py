"""Rows of both books, written by hand: for answers that can be computed by hand."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from payments.models import Payment, Refund
from payments.types import BalanceTransaction
from reconciliation.services.importing import upsert

MERCHANT = UUID(int=7)
DAY = datetime(2026, 1, 10, tzinfo=UTC)
NOON = DAY + timedelta(hours=12)
_numbers = count(1)


def ours(source: str, amount: int = 1500, *, at: datetime = NOON, status: str = "succeeded", **fields: Any) -> Payment:
    """A payment of ours with the charge `source`; one that did not succeed knows only its intent."""
    number = next(_numbers)
    succeeded = status == "succeeded"
    return Payment.objects.create(
        **{
            "merchant_id": MERCHANT,
            "reference": f"order-{number}",
            "customer": "cust-1",
            "status": status,
            "amount_minor": amount,
            "currency": "usd",
            "provider_reference": source.replace("ch_", "pi_"),
            "charge_reference": source if succeeded else None,
            "captured_minor": amount if succeeded else 0,
            "captured_at": at if succeeded else None,
            "first_sent_at": at,
            **fields,
        }
    )


def our_refund(
    payment: Payment, source: str, amount: int, *, at: datetime = NOON, status: str = "succeeded", **fields: Any
) -> Refund:
    return Refund.objects.create(
        merchant_id=payment.merchant_id,
        payment=payment,
        status=status,
        amount_minor=amount,
        currency=payment.currency,
        reason="a test",
        requested_by="test",
        provider_reference=source,
        provider_created_at=at,
        **fields,
    )


def theirs(source: str, amount: int = 1500, *, at: datetime = NOON, **fields: Any) -> str:
    """A row of the provider's books; amounts with its sign. Returns its id."""
    number = next(_numbers)
    is_refund = source.startswith("re_")
    row: dict[str, Any] = {
        "id": f"txn_{number}",
        "type": "refund" if is_refund else "charge",
        "reporting_category": "refund" if is_refund else "charge",
        "source": source,
        "amount_minor": amount,
        "fee_minor": 0 if is_refund else 74,
        "net_minor": amount - (0 if is_refund else 74),
        "currency": "usd",
        "status": "available",
        "created_at": at,
        "available_at": at + timedelta(days=2),
        "payment_intent": source.replace("ch_", "pi_"),
        "charge": source if not is_refund else "",
        "metadata": {},
        "source_status": "succeeded",
        **fields,
    }
    upsert([BalanceTransaction(**row)])
    return str(row["id"])


def both(source: str, amount: int = 1500, *, at: datetime = NOON, **fields: Any) -> Payment:
    theirs(source, amount, at=at, **fields)
    return ours(source, amount, at=at, **fields)
