"""What the provider says of a refund, and what follows for the books: everything ends in `apply_refund`."""

import logging
from typing import Any

from django.db.models import F
from django.db.models.functions import Now

from durability import services as durability
from foundation.transition import transition
from payments import ledger, metrics
from payments.events import RefundFailed, RefundSucceeded
from payments.metrics import count_after_commit
from payments.models import Payment, Refund, RefundHistory
from payments.states import REFUND_EDGES, RefundStatus
from payments.types import ProviderRefund

log = logging.getLogger(__name__)

_REFUND_STATES = {
    "pending": RefundStatus.PENDING,
    "requires_action": RefundStatus.REQUIRES_ACTION,
    "succeeded": RefundStatus.SUCCEEDED,
    "failed": RefundStatus.FAILED,
    "canceled": RefundStatus.CANCELLED,
}


def apply_refund(refund: Refund, payment: Payment, news: ProviderRefund, *, by: str) -> None:
    """Bring a locked refund (its payment locked before it) to what the provider says, in the caller's transaction."""
    if (news.amount_minor, news.currency) != (refund.amount_minor, refund.currency) or (
        refund.provider_reference not in (None, news.id)
    ):
        log.error("refund %s: the provider has %s %s", refund.number, news.amount_minor, news.currency)
        return  # nothing changes; reconciliation shows both sides
    to = _REFUND_STATES[news.status]
    values: dict[str, Any] = {"provider_reference": news.id, "provider_created_at": news.created_at}
    if refund.status == to or (refund.status, to) not in REFUND_EDGES:
        Refund.objects.filter(pk=refund.pk, provider_reference__isnull=True).update(**values)
        return
    before = refund.status
    if to in (RefundStatus.SUCCEEDED, RefundStatus.FAILED, RefundStatus.CANCELLED):
        values |= {"completed_at": Now(), "next_check_at": None, "failure_code": news.failure_reason}
    transition(refund, to, edges=REFUND_EDGES, history=RefundHistory, by=by, values=values)
    if to == RefundStatus.SUCCEEDED:
        _refund_succeeded(refund, payment, by=by)
    elif to in (RefundStatus.FAILED, RefundStatus.CANCELLED):
        refund_failed(refund, payment, was_succeeded=before == RefundStatus.SUCCEEDED, by=by)


def _refund_succeeded(refund: Refund, payment: Payment, *, by: str) -> None:
    Payment.objects.filter(pk=payment.pk).update(refunded_minor=F("refunded_minor") + refund.amount_minor)
    post_refund_paid(refund, payment, by=by)
    count_after_commit(metrics.REFUNDED, refund.currency, refund.amount_minor)
    durability.publish(RefundSucceeded(**about_refund(refund, payment)))


def refund_failed(refund: Refund, payment: Payment, *, was_succeeded: bool, by: str) -> None:
    """Give the amount back to what can be refunded; after a success, the money is back at the provider: a debt again."""
    columns = {"refunds_committed_minor": F("refunds_committed_minor") - refund.amount_minor}
    if was_succeeded:
        columns["refunded_minor"] = F("refunded_minor") - refund.amount_minor
        ledger.post(
            key=f"refund_failed_late:{refund.number}",
            kind="refund_failed_late",
            debit=ledger.clearing(refund.currency),
            credit=ledger.refunds_in_flight(refund.currency),
            amount_minor=refund.amount_minor,
            by=by,
            merchant_id=refund.merchant_id,
            subject=refund.number,
            reference=payment.reference,
        )
    Payment.objects.filter(pk=payment.pk).update(**columns)
    release_hold(refund, payment, by=by)
    durability.publish(RefundFailed(**about_refund(refund, payment), late=was_succeeded))


def post_refund_paid(refund: Refund, payment: Payment, *, by: str) -> None:
    """The provider paid the refund out of what it holds for us."""
    ledger.post(
        key=f"refund:{refund.number}",
        kind="refund",
        debit=ledger.refunds_in_flight(refund.currency),
        credit=ledger.clearing(refund.currency),
        amount_minor=refund.amount_minor,
        by=by,
        merchant_id=refund.merchant_id,
        subject=refund.number,
        reference=payment.reference,
    )


def hold_refund(refund: Refund, payment: Payment, *, by: str) -> None:
    """Take a refund's amount from whoever holds it: the merchant once the sale is posted, the customer before."""
    ledger.post(
        key=f"refund_hold:{refund.number}",
        kind="refund_hold",
        debit=refund_source(payment),
        credit=ledger.refunds_in_flight(refund.currency),
        amount_minor=refund.amount_minor,
        by=by,
        merchant_id=refund.merchant_id,
        subject=refund.number,
        reference=payment.reference,
        memo=refund.reason,
    )


def release_hold(refund: Refund, payment: Payment, *, by: str) -> None:
    """Give a refund's amount back to where it was taken from."""
    ledger.post(
        key=f"refund_release:{refund.number}",
        kind="refund_release",
        debit=ledger.refunds_in_flight(refund.currency),
        credit=refund_source(payment),
        amount_minor=refund.amount_minor,
        by=by,
        merchant_id=refund.merchant_id,
        subject=refund.number,
        reference=payment.reference,
    )


def refund_source(payment: Payment) -> ledger.AccountKey:
    """Whose account pays a refund of this payment."""
    sold = ledger.was_posted(f"sale:{payment.number}") and not ledger.was_posted(f"sale_reversed:{payment.number}")
    if sold:
        return ledger.merchant_payable(payment.merchant_id, payment.currency)
    return ledger.customer_account(payment.merchant_id, payment.customer, payment.currency)


def about_refund(refund: Refund, payment: Payment) -> dict[str, Any]:
    """The common payload of a refund's events."""
    return {
        "refund": refund.number,
        "payment": payment.number,
        "merchant_id": str(refund.merchant_id),
        "reference": payment.reference,
        "amount_minor": refund.amount_minor,
        "currency": refund.currency,
        "provider_reference": refund.provider_reference or "",
    }
