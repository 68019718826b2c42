"""Discrepancies that news told of: open at once, and the nightly run finds the same one.

In the caller's transaction; each call may come again and changes nothing then.
"""

from datetime import datetime

from foundation.database import database_now
from foundation.money import format_minor
from payments import selectors as payments
from payments.events import DisputeContradicted, PaymentContradicted, RefundContradicted
from payments.types import PaymentView, RefundView
from reconciliation.locks import one_writer
from reconciliation.services import findings
from reconciliation.types import Finding, Kind

WAIT_FOR_RUN_S = 5  # a run stores its results in seconds; a handler that waited in vain is tried again
BY = "news"


def open_discrepancy(found: Finding) -> None:
    """Open a discrepancy, or bring the one of the same kind and source up to date. Raises BooksBusy.

    One that was accepted stays so while its figures are the same; one that was closed otherwise opens again.
    """
    with one_writer(wait_s=WAIT_FOR_RUN_S):
        findings.tell(found, by=BY, now=database_now())


def note_contradiction(news: PaymentContradicted) -> None:
    """The provider's intent cannot be our payment: money may be there that no order explains. Raises BooksBusy."""
    if not news.contradicts:
        return  # told by an older release, without its figures; the next re-read of the payment tells it anew
    payment = payments.get_payment(news.payment)
    another = news.contradicts == "intent"
    took_money = bool(news.charge)
    settled_here = payment.status == "succeeded"
    kind = {"amount": Kind.AMOUNT_MISMATCH, "currency": Kind.CURRENCY_MISMATCH, "mode": Kind.STATUS_MISMATCH}.get(
        news.contradicts, Kind.DUPLICATE_CHARGE if settled_here else Kind.MISSING_IN_OUR_SYSTEM
    )
    ours_minor = payment.captured_minor if settled_here else payment.amount_minor
    comparable = took_money and news.theirs_currency == payment.currency
    booked_minor = payment.captured_minor if settled_here and not another else 0
    open_discrepancy(
        Finding(
            kind=kind,
            object_kind="charge",
            source=news.charge or news.intent,
            order_reference=news.reference,
            merchant_id=payment.merchant_id,
            payment="" if another else payment.number,
            intent=news.intent,
            charge=news.charge,
            ours_amount_minor=None if another else ours_minor,
            ours_currency="" if another else payment.currency,
            ours_status="" if another else payment.status,
            theirs_amount_minor=news.theirs_amount_minor,
            theirs_currency=news.theirs_currency,
            theirs_status=news.theirs_status,
            difference_minor=news.theirs_amount_minor - booked_minor if comparable else None,
            theirs_at=_moment(news.theirs_at),
            detail=news.detail,
        )
    )


def note_refund_contradiction(news: RefundContradicted) -> None:
    """The provider's refund cannot be ours. Raises BooksBusy."""
    refund = payments.get_refund(news.refund)
    payment = payments.get_payment(news.payment)
    another = news.contradicts == "refund"
    kind = Kind.CURRENCY_MISMATCH if news.contradicts == "currency" else Kind.AMOUNT_MISMATCH_REFUND
    booked_minor = refund.amount_minor if refund.status == "succeeded" and not another else 0
    open_discrepancy(
        Finding(
            kind=Kind.MISSING_IN_OUR_SYSTEM_REFUND if another else kind,
            object_kind="refund",
            source=news.theirs,
            order_reference=news.reference,
            merchant_id=refund.merchant_id,
            payment=payment.number,
            refund="" if another else refund.number,
            intent=payment.provider_reference,
            charge=payment.charge_reference,
            ours_amount_minor=None if another else refund.amount_minor,
            ours_currency="" if another else refund.currency,
            ours_status="" if another else refund.status,
            theirs_amount_minor=news.theirs_amount_minor,
            theirs_currency=news.theirs_currency,
            theirs_status=news.theirs_status,
            difference_minor=(
                booked_minor - news.theirs_amount_minor if news.theirs_currency == refund.currency else None
            ),
            theirs_at=_moment(news.theirs_at),
            detail=news.detail,
        )
    )


def note_dispute_contradiction(news: DisputeContradicted) -> None:
    """A dispute in another currency than its payment: nothing of it is in our books. Raises NotFound, BooksBusy."""
    payment = payments.get_payment(news.payment)
    open_discrepancy(
        Finding(
            kind=Kind.DISPUTE_UNEXPECTED,
            object_kind="dispute",
            source=news.provider_reference,
            order_reference=news.reference,
            merchant_id=payment.merchant_id,
            payment=payment.number,
            intent=payment.provider_reference,
            charge=payment.charge_reference,
            ours_amount_minor=0,  # a night's run sees the same: nothing of it is booked here
            ours_currency=news.currency,
            ours_status="",
            theirs_amount_minor=news.amount_minor,
            theirs_currency=news.currency,
            theirs_status=news.status,
            difference_minor=None,  # of two currencies nothing can be taken off
            detail=news.detail,
        )
    )


def _moment(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def note_late_failure(*, refund: str, late: bool = True) -> None:
    """A refund that had succeeded came back: the customer still waits for the money. Raises NotFound, BooksBusy.

    One that failed before it succeeded is no difference: its amount is free again, and orders know.
    """
    if not late:
        return
    money = payments.get_refund(refund)
    payment = payments.get_payment(money.payment)
    open_discrepancy(
        _agreed(
            Kind.REFUND_FAILED_LATE,
            money,
            payment,
            theirs_status="failed",
            detail="The refund had succeeded; then the bank sent it back.",
        )
    )


def note_over_refunded(*, refund: str, excess_minor: int) -> None:
    """A refund made behind our back commits more than was captured. Raises NotFound, BooksBusy."""
    money = payments.get_refund(refund)
    payment = payments.get_payment(money.payment)
    excess = format_minor(excess_minor, money.currency)
    open_discrepancy(
        _agreed(
            Kind.OVER_REFUNDED,
            money,
            payment,
            theirs_status="succeeded" if money.status == "succeeded" else "pending",
            detail=f"All refunds of {payment.number} together commit {excess} more than was captured.",
        )
    )


def _agreed(kind: str, refund: RefundView, payment: PaymentView, *, theirs_status: str, detail: str) -> Finding:
    """Both books hold the same refund; what is wrong is what became of it, or all refunds together."""
    return Finding(
        kind=kind,
        object_kind="refund",
        source=refund.provider_reference,
        order_reference=payment.reference,
        merchant_id=refund.merchant_id,
        payment=payment.number,
        refund=refund.number,
        intent=payment.provider_reference,
        charge=payment.charge_reference,
        ours_amount_minor=refund.amount_minor,
        ours_currency=refund.currency,
        ours_status=refund.status,
        theirs_amount_minor=refund.amount_minor,
        theirs_currency=refund.currency,
        theirs_status=theirs_status,
        difference_minor=None,
        theirs_at=refund.completed_at,
        detail=detail,
    )
