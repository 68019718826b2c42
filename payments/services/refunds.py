"""Refunds: held in our books first, asked for under their own number, posted when the provider has paid."""

from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F
from django.db.models.functions import Now

from durability import services as durability
from durability.types import Accepted, Outcome, Refused, Succeeded, Unknown
from foundation.database import database_now, in_seconds
from foundation.errors import InvalidInput, NotFound
from foundation.money import share
from foundation.transition import transition
from payments import gateway
from payments.errors import (
    PaymentNotRefundable,
    ProviderBusy,
    ProviderRefused,
    ProviderUnsure,
    RefundExceedsCaptured,
    RefundWindowClosed,
)
from payments.events import RefundRequested
from payments.locks import lock_payment, lock_refund
from payments.models import Payment, Refund, RefundHistory
from payments.services.refund_news import about_refund, apply_refund, hold_refund, post_refund_paid, refund_failed
from payments.states import REFUND_EDGES, PaymentStatus, RefundStatus
from payments.types import ProviderRefund, RefundPolicy


def refundable_minor(payment: Payment, policy: RefundPolicy | None) -> int:
    """What can still be refunded: max(0, captured × ratio rounded half-even − fee) less open and paid refunds."""
    allowed = payment.captured_minor
    if policy:
        allowed = max(0, share(payment.captured_minor, policy.ratio_bp) - policy.fee_minor)
    return max(0, allowed - payment.refunds_committed_minor)


def request_refund(
    *,
    payment: str,
    amount_minor: int | None,
    reason: str,
    requested_by: str,
    policy: RefundPolicy | None,
    merchant_id: UUID | None = None,
) -> str:
    """Hold an amount (None: all that is allowed) and start the refund saga, in the caller's transaction.

    `policy` None passes the merchant's window, ratio and fee: for cancellations, discrepancies and staff with a
    reason. Returns the refund's number. Raises NotFound, PaymentNotRefundable, RefundWindowClosed,
    RefundExceedsCaptured, InvalidInput.
    """
    if not reason.strip():
        raise InvalidInput("Say why: the reason is kept with the refund.", param="reason")
    row = lock_payment(Payment.id_of(payment))
    if merchant_id not in (None, row.merchant_id):
        raise NotFound
    if row.status != PaymentStatus.SUCCEEDED:
        raise PaymentNotRefundable
    if policy and row.paid_at and database_now() - row.paid_at > timedelta(days=policy.window_days):
        raise RefundWindowClosed
    left_minor = refundable_minor(row, policy)
    wanted_minor = left_minor if amount_minor is None else amount_minor
    if not 0 < wanted_minor <= left_minor:
        raise RefundExceedsCaptured(
            f"{left_minor} {row.currency} (minor units) of this payment can still be refunded.", param="amount"
        )
    refund = Refund.objects.create(
        merchant_id=row.merchant_id,
        payment=row,
        amount_minor=wanted_minor,
        currency=row.currency,
        reason=reason.strip(),
        requested_by=requested_by,
    )
    try:
        with transaction.atomic():
            Payment.objects.filter(pk=row.pk).update(
                refunds_committed_minor=F("refunds_committed_minor") + wanted_minor
            )
    except IntegrityError as error:
        raise RefundExceedsCaptured from error
    hold_refund(refund, row, by=requested_by)
    transition(refund, RefundStatus.PROCESSING, edges=REFUND_EDGES, history=RefundHistory, by=requested_by, why=reason)
    durability.publish(RefundRequested(**about_refund(refund, row)))
    durability.start_saga("payments.refund", key=refund.number, subject=row.reference)
    return refund.number


def release_refundable(number: str, *, by: str) -> None:
    """Undo the hold of a refund that will not happen. Does nothing for one that ended already."""
    refund, payment = lock_refund(Refund.id_of(number))
    if refund.status == RefundStatus.PROCESSING:
        transition(
            refund,
            RefundStatus.FAILED,
            edges=REFUND_EDGES,
            history=RefundHistory,
            by=by,
            values={"completed_at": Now(), "next_check_at": None},
        )
        refund_failed(refund, payment, was_succeeded=False, by=by)


def refund_at_provider(number: str) -> Outcome:
    """Ask the provider for the refund: the same number each time. Belongs outside of transactions."""
    refund = Refund.objects.select_related("payment").get(pk=Refund.id_of(number))
    try:
        return Succeeded(_send(refund))
    except ProviderRefused as refusal:
        return Refused(refusal.code, refusal.message)
    except (ProviderUnsure, ProviderBusy) as doubt:
        return Unknown(str(doubt))


def _send(refund: Refund) -> ProviderRefund:
    if refund.provider_reference:
        return gateway.retrieve_refund(refund.provider_reference)
    intent = refund.payment.provider_reference or ""
    if refund.first_sent_at:  # sent before, and we never learnt the answer
        found = gateway.find_refund(refund.number, payment_intent=intent)
        if found:
            return found
        if database_now() - refund.first_sent_at > timedelta(seconds=settings.PROVIDER_KEY_SAFE_FOR_S):
            raise ProviderUnsure("sent long ago and not to be found at the provider: a person must look")
    else:
        Refund.objects.filter(pk=refund.pk).update(
            first_sent_at=Now(), next_check_at=in_seconds(settings.PAYMENT_RECHECK_FIRST_S)
        )
    try:
        return gateway.create_refund(
            number=refund.number,
            payment_intent=intent,
            amount_minor=refund.amount_minor,
            metadata={
                "refund": refund.number,
                "payment": refund.payment.number,
                "order": refund.payment.reference,
                "merchant": str(refund.merchant_id),
                "instance": settings.INSTANCE_ID,
            },
        )
    except ProviderUnsure as doubt:
        sent_at = refund.first_sent_at
        grace = timedelta(seconds=settings.PROVIDER_LOOKUP_GRACE_S)
        if not (doubt.final and sent_at and database_now() - sent_at > grace):
            raise
        found = gateway.find_refund(refund.number, payment_intent=intent)  # this very try may have made it
        if found is None:
            # The provider replays its 500 for ever, and lists no such refund: it was never made.
            raise ProviderRefused("provider_error", "The provider failed to make the refund.") from doubt
        return found


def record_refund(number: str, outcome: Outcome) -> None:
    """Commit what the provider answered, in the caller's transaction."""
    refund, payment = lock_refund(Refund.id_of(number))
    match outcome:
        case Succeeded(value=news):
            apply_refund(refund, payment, news, by="refund")
        case Refused(code=code, message=message):
            Refund.objects.filter(pk=refund.pk).update(failure_code=code, failure_message=message)
        case Unknown() | Accepted():
            pass


def post_refund(number: str, *, by: str) -> None:
    """See the refund's posting through. A refund that the bank still works on is posted when its news arrive."""
    refund, payment = lock_refund(Refund.id_of(number))
    if refund.status == RefundStatus.SUCCEEDED:
        post_refund_paid(refund, payment, by=by)


def flag_refund(number: str, *, by: str) -> None:
    """The provider paid, and our books could not follow: leave a mark that reconciliation and operators see."""
    Refund.objects.filter(pk=Refund.id_of(number)).update(failure_message=f"paid, but not posted ({by})")
