"""What the provider says of a refund, and what follows for the books: everything ends in `apply_refund`."""

import logging
from typing import Any

from django.conf import settings
from django.db.models.functions import Now

from durability import services as durability
from foundation.database import in_seconds
from foundation.transition import transition
from payments import metrics
from payments.events import OverRefunded, RefundFailed, RefundSucceeded
from payments.metrics import count_after_commit
from payments.models import Payment, Refund, RefundHistory
from payments.services import credit, loyalty
from payments.services.about import about_refund
from payments.services.contradictions import note_refund_contradiction, refund_contradiction
from payments.services.refund_books import free_minor, hold_refund, post_refund_paid, recount, set_sums, take_back
from payments.services.tries import read_again_later
from payments.states import REFUND_EDGES, REFUND_ENDED_UNPAID, REFUND_OPEN, RefundStatus
from payments.types import ProviderRefund

log = logging.getLogger(__name__)

PROVIDER_STATES = {
    "pending": RefundStatus.PENDING,
    "requires_action": RefundStatus.REQUIRES_ACTION,
    "succeeded": RefundStatus.SUCCEEDED,
    "failed": RefundStatus.FAILED,
    "canceled": RefundStatus.CANCELLED,
}


def apply_refund(refund: Refund, payment: Payment, news: ProviderRefund, *, by: str) -> None:
    """Bring a locked refund (its payment locked before it) to what the provider says, in the caller's transaction."""
    contradicts = refund_contradiction(refund, news)
    if contradicts:
        note_refund_contradiction(refund, payment, news, contradicts)
        return
    to = PROVIDER_STATES[news.status]
    # We had ended it without an answer. What was acknowledged once and then failed is over: older news changes nothing.
    given_up = refund.status == RefundStatus.FAILED and refund.provider_reference is None
    values: dict[str, Any] = {"provider_reference": news.id, "provider_created_at": news.created_at}
    legal = (refund.status, to) in REFUND_EDGES and (given_up or refund.status != RefundStatus.FAILED)
    if refund.status == to or not legal:
        Refund.objects.filter(pk=refund.pk, provider_reference__isnull=True).update(**values)
        return
    late = refund.status == RefundStatus.SUCCEEDED
    if given_up:
        values |= {"failure_message": "", "next_check_at": in_seconds(settings.PAYMENT_RECHECK_FIRST_S)}
    if to in (RefundStatus.SUCCEEDED, *REFUND_ENDED_UNPAID):
        values |= {"completed_at": Now(), "failure_code": news.failure_reason, **read_again_later(refund)}
    if refund.person_needed_at and refund.status in REFUND_OPEN:
        values |= {"person_needed_at": None, "person_needed_why": ""}  # nobody knew, and the provider has spoken
    if late:
        values["failed_late_at"] = Now()
    transition(refund, to, edges=REFUND_EDGES, history=RefundHistory, by=by, values=values)
    if given_up:
        hold_unasked(refund, payment, by=by)
    if to == RefundStatus.SUCCEEDED:
        refund_succeeded(refund, payment, by=by)
    elif to in REFUND_ENDED_UNPAID:
        refund_failed(refund, payment, late=late, by=by)


def refund_succeeded(refund: Refund, payment: Payment, *, by: str) -> None:
    """Its status says so: the rest of the books follows."""
    recount(payment)
    post_refund_paid(refund, payment, by=by)
    credit.pay_credit_refund(refund, payment, by=by)
    loyalty.adjust_points(payment, cause=refund.number, by=by)
    count_after_commit(metrics.REFUNDED, refund.currency, refund.amount_minor)
    durability.publish(RefundSucceeded(**about_refund(refund, payment)))


def refund_failed(refund: Refund, payment: Payment, *, late: bool, by: str) -> None:
    """Its status says so: the amount can be refunded again. After a success it is a debt to the customer, and alarms."""
    take_back(refund, payment, late=late, by=by)
    loyalty.adjust_points(payment, cause=f"{refund.number}:failed", by=by)
    if late:
        log.error("refund %s of %s came back: it is owed to the customer", refund.number, payment.number)
        count_after_commit(metrics.REFUNDS_FAILED_LATE, refund.currency)
    durability.publish(RefundFailed(**about_refund(refund, payment), late=late))


def hold_unasked(refund: Refund, payment: Payment, *, by: str) -> None:
    """Hold the amount of a refund that the provider has made and that no sum of ours had room kept for.

    It is held whole, even if that is more than was captured: then a person must look.
    """
    owed_minor = min(payment.refunds_owed_minor, refund.amount_minor)
    room_minor = free_minor(payment) + payment.refunds_owed_minor
    excess_minor = refund.amount_minor - max(owed_minor, min(refund.amount_minor, room_minor))
    set_sums(payment, refunds_owed_minor=payment.refunds_owed_minor - owed_minor)
    recount(payment)
    hold_refund(refund, payment, owed_minor=owed_minor, excess_minor=excess_minor, by=by)
    if payment.refunds_excess_minor:
        log.error("payment %s: refunds exceed what was captured, by %s", payment.number, refund.number)
        durability.publish(OverRefunded(**about_refund(refund, payment), excess_minor=payment.refunds_excess_minor))
