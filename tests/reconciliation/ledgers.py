"""Rows of both books, written by hand: for answers that can be computed by hand."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from payments import services
from payments.models import Dispute, Payment, Payout, Refund
from payments.states import DISPUTE_CLOSED
from payments.types import BalanceTransaction, LearntFee
from reconciliation.models import Discrepancy
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


def our_dispute(payment: Payment, source: str, withdrawn: int, *, at: datetime = NOON, **fields: Any) -> Dispute:
    return Dispute.objects.create(
        **{
            "merchant_id": payment.merchant_id,
            "payment": payment,
            "provider_reference": source,
            "status": "needs_response",
            "amount_minor": withdrawn,
            "withdrawn_minor": withdrawn,
            "currency": payment.currency,
            "opened_at": at,
            "closed_at": at if fields.get("status") in DISPUTE_CLOSED else None,
            **fields,
        }
    )


def our_payout(source: str, amount: int, *, at: datetime = NOON, status: str = "paid", **fields: Any) -> Payout:
    return Payout.objects.create(
        **{
            "provider_reference": source,
            "status": status,
            "amount_minor": amount,
            "currency": "usd",
            "automatic": True,
            "arrives_on": at.date() + timedelta(days=2),
            "provider_created_at": at,
            **fields,
        }
    )


def booked(source: str, amount: int, category: str, *, fee: int = 0, at: datetime = NOON, **fields: Any) -> str:
    """A row of theirs that is no charge: a dispute, a payout, an adjustment. Amounts with its sign."""
    row = {"type": "adjustment", "reporting_category": category, "payment_intent": "", "source_status": ""}
    return theirs(source, amount, at=at, **{**row, "fee_minor": fee, "net_minor": amount - fee, **fields})


def post_fee(transaction: str, amount: int, payment: Payment | None = None, currency: str = "usd") -> None:
    """The fee as we learnt of it when the money moved."""
    services.post_learnt_fees(
        [LearntFee(transaction, currency, amount, subject=payment.number if payment else "")], by="test"
    )


def row_of_theirs(source: str, amount: int = 1500, *, at: datetime = NOON, **fields: Any) -> BalanceTransaction:
    """A row of the provider's books, nowhere written yet; amounts with its sign."""
    is_refund = source.startswith("re_")
    row: dict[str, Any] = {
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
    }
    return BalanceTransaction(**{"id": f"txn_{next(_numbers)}", **row, **fields})


def theirs(source: str, amount: int = 1500, *, at: datetime = NOON, **fields: Any) -> str:
    """Write such a row. Returns its id."""
    row = row_of_theirs(source, amount, at=at, **fields)
    upsert([row])
    return row.id


def both(source: str, amount: int = 1500, *, at: datetime = NOON, **fields: Any) -> Payment:
    theirs(source, amount, at=at, **fields)
    return ours(source, amount, at=at, **fields)


def found() -> dict[str, str]:
    """source → kind of everything that is not resolved."""
    return dict(Discrepancy.objects.exclude(state="resolved").values_list("source", "kind"))


def the(source: str) -> Discrepancy:
    return Discrepancy.objects.get(source=source)
