"""Refunds, asked for and decided on: held in our books first, approved by a second person above the merchant's limit.

| asked for by | the merchant's terms for customers | a second person above the limit |
|---|---|---|
| a customer, over the API | apply | yes: the requester is the merchant's system |
| staff with a reason, a cancellation, a discrepancy | pass | yes |
| nobody: money that no order explains goes back by itself | pass | no |
"""

from datetime import timedelta
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F
from django.db.models.functions import Now

from catalog import selectors as catalog
from durability import services as durability
from foundation.database import database_now
from foundation.errors import IllegalTransition, InvalidInput, NotFound
from foundation.ids import uuid7
from foundation.money import check_step, share, whole_steps
from foundation.transition import transition
from payments.errors import (
    PaymentDisputed,
    PaymentNotRefundable,
    RefundExceedsCaptured,
    RefundWindowClosed,
    SecondPersonNeeded,
)
from payments.events import RefundRejected, RefundRequested
from payments.locks import lock_payment, lock_refund
from payments.models import Payment, Refund, RefundHistory
from payments.services import credit
from payments.services.about import about_refund
from payments.services.refund_books import hold_refund, take_back
from payments.services.refund_news import refund_succeeded
from payments.states import REFUND_EDGES, REFUND_ENDED_UNPAID, PaymentStatus, RefundStatus
from payments.types import RefundPolicy


def refundable_minor(payment: Payment, policy: RefundPolicy | None) -> int:
    """What can still be refunded: max(0, paid × ratio rounded half-even − fee) less open and paid refunds.

    Paid is what was captured and what store credit covered. Never more than what disputes left of it.
    """
    left_minor = credit.refundable_in_all_minor(payment)
    if policy:
        paid_minor = payment.captured_minor + payment.credit_captured_minor
        fee_minor = policy.fee_minor if policy.currency == payment.currency else 0
        allowed_minor = max(0, share(paid_minor, policy.ratio_bp) - fee_minor)
        allowed_minor = whole_steps(allowed_minor, payment.currency)
        committed_minor = payment.refunds_committed_minor + payment.credit_refunds_committed_minor
        left_minor = min(left_minor, allowed_minor - committed_minor)
    return max(0, left_minor)


def request_refund(
    *,
    payment: str,
    amount_minor: int | None,
    reason: str,
    requested_by: str,
    policy: RefundPolicy | None,
    merchant_id: UUID | None = None,
    automatic: bool = False,
    again_of: Refund | None = None,
    paid_outside: bool = False,
    as_credit: bool = False,
    refund_id: UUID | None = None,
) -> str:
    """Hold an amount (None: all that is allowed) and start the refund saga, in the caller's transaction.

    Above the merchant's limit it waits for a second person instead, its amount held, unless it is `automatic`.
    `policy` None passes the merchant's window, ratio and fee: for cancellations, discrepancies and staff with a
    reason. The card gets its money back first, then the store credit that was spent; `as_credit` gives all of it as
    store credit. `paid_outside`: our bank pays it, not the provider. `refund_id` names the press of the button: the
    same one asks once, and answers again with what it asked for. Returns the refund's number. Raises NotFound,
    PaymentNotRefundable, PaymentDisputed, RefundWindowClosed, RefundExceedsCaptured, InvalidInput.
    """
    if not reason.strip():
        raise InvalidInput("Say why: the reason is kept with the refund.", param="reason")
    row = lock_payment(Payment.id_of(payment))
    if merchant_id not in (None, row.merchant_id):
        raise NotFound
    asked = Refund.objects.filter(pk=refund_id).first() if refund_id else None
    if asked:
        if asked.payment_id != row.pk:
            raise InvalidInput("This press of the button was another payment's: open the page again.", param="press")
        return asked.number
    wanted_minor = _check(row, amount_minor, policy)
    card_minor, credit_minor = credit.split_refund(row, wanted_minor, as_credit=as_credit)
    refund = Refund.objects.create(
        id=refund_id or uuid7(),
        merchant_id=row.merchant_id,
        payment=row,
        amount_minor=card_minor,
        credit_minor=credit_minor,
        currency=row.currency,
        reason=reason.strip(),
        requested_by=requested_by,
        approval_above_minor=None if automatic else _limit_minor(row),
        automatic=automatic,
        again_of=again_of,
        paid_outside=paid_outside,
    )
    owed_minor = min(row.refunds_owed_minor, card_minor)  # a debt to the customer is paid first
    owed_as_credit_minor = min(row.refunds_owed_minor - owed_minor, credit_minor) if as_credit else 0
    try:
        with transaction.atomic():
            Payment.objects.filter(pk=row.pk).update(
                refunds_committed_minor=F("refunds_committed_minor") + card_minor,
                credit_refunds_committed_minor=F("credit_refunds_committed_minor") + credit_minor,
                refunds_owed_minor=F("refunds_owed_minor") - owed_minor - owed_as_credit_minor,
            )
    except IntegrityError as error:
        raise RefundExceedsCaptured from error
    row.refresh_from_db(fields=["refunds_committed_minor", "credit_refunds_committed_minor", "refunds_owed_minor"])
    hold_refund(refund, row, owed_minor=owed_minor, by=requested_by)
    credit.hold_credit_refund(refund, row, owed_minor=owed_as_credit_minor, by=requested_by)
    durability.publish(RefundRequested(**about_refund(refund, row)))
    if refund.approval_above_minor is not None and wanted_minor > refund.approval_above_minor:
        _move(refund, RefundStatus.AWAITING_APPROVAL, by=requested_by, why=refund.reason)
    else:
        _begin(refund, row, by=requested_by, why=refund.reason)
    return refund.number


def _check(payment: Payment, amount_minor: int | None, policy: RefundPolicy | None) -> int:
    if payment.status != PaymentStatus.SUCCEEDED:
        raise PaymentNotRefundable
    if payment.disputed_at:
        raise PaymentDisputed
    if policy and payment.paid_at and database_now() - payment.paid_at > timedelta(days=policy.window_days):
        raise RefundWindowClosed
    left_minor = refundable_minor(payment, policy)
    wanted_minor = left_minor if amount_minor is None else amount_minor
    if not 0 < wanted_minor <= left_minor:
        raise RefundExceedsCaptured(
            f"{left_minor} {payment.currency} (minor units) of this payment can still be refunded.", param="amount"
        )
    if amount_minor is not None:
        check_step(amount_minor, payment.currency)
    return wanted_minor


def _limit_minor(payment: Payment) -> int | None:
    """Above which a second person is needed. A limit in one currency says nothing of another: there every refund waits."""
    terms = catalog.get_merchant(payment.merchant_id)
    if terms.refund_approval_above_minor is None or terms.currency == payment.currency:
        return terms.refund_approval_above_minor
    return 0


def approve_refund(*, number: str, by: str, why: str) -> None:
    """A second person says yes: the refund begins, in the caller's transaction.

    Raises NotFound, IllegalTransition, SecondPersonNeeded, PaymentDisputed, RefundExceedsCaptured, InvalidInput.
    """
    refund, payment = _lock_waiting(number, why)
    if by == refund.requested_by:
        raise SecondPersonNeeded
    if payment.disputed_at:
        raise PaymentDisputed
    if credit.refundable_in_all_minor(payment) < 0:
        raise RefundExceedsCaptured("A lost dispute took what was to be refunded: reject this refund.")
    _begin(refund, payment, by=by, why=why.strip(), values={"approved_by": by, "approved_at": Now()})


def reject_refund(*, number: str, by: str, why: str) -> None:
    """Somebody says no, or the requester takes it back: what was held is free again, in the caller's transaction.

    Raises NotFound, IllegalTransition, InvalidInput.
    """
    refund, payment = _lock_waiting(number, why)
    values = {"completed_at": Now(), "failure_code": "rejected", "failure_message": why.strip()}
    _move(refund, RefundStatus.CANCELLED, by=by, why=why.strip(), values=values)
    take_back(refund, payment, late=False, by=by)
    durability.publish(RefundRejected(**about_refund(refund, payment)))


def refund_again(*, number: str, by: str, why: str, paid_outside: bool = False) -> str:
    """Make a refund that failed once more, in the caller's transaction; returns the new one's number.

    `paid_outside`: our bank has paid, by transfer or in cash: for what is owed, where the card is closed. Raises
    NotFound, IllegalTransition (not failed, made again already, or nothing owed) and what `request_refund` raises.
    """
    refund, payment = lock_refund(Refund.id_of(number))
    if refund.status != RefundStatus.FAILED:
        raise IllegalTransition(f"{number} is {refund.status}: only a refund that failed is made again.")
    if refund.again.exclude(status__in=REFUND_ENDED_UNPAID).exists():
        raise IllegalTransition(f"{number} was made again already.")
    given = credit.was_given(refund)
    whole_minor = refund.amount_minor if given or paid_outside else refund.amount_minor + refund.credit_minor
    left_minor = payment.refunds_owed_minor if paid_outside else refundable_minor(payment, None)
    if paid_outside and not left_minor:
        raise IllegalTransition(f"Nothing is owed for {payment.number}.")
    return request_refund(
        payment=payment.number,
        amount_minor=min(whole_minor, left_minor),
        reason=why,
        requested_by=by,
        policy=None,
        again_of=refund,
        paid_outside=paid_outside,
    )


def _lock_waiting(number: str, why: str) -> tuple[Refund, Payment]:
    if not why.strip():
        raise InvalidInput("Say why: the reason is kept with the refund.", param="note")
    refund, payment = lock_refund(Refund.id_of(number))
    if refund.status != RefundStatus.AWAITING_APPROVAL:
        raise IllegalTransition(f"{number} is {refund.status}: nobody has to decide on it.")
    return refund, payment


def _begin(refund: Refund, payment: Payment, *, by: str, why: str, values: dict[str, object] | None = None) -> None:
    _move(refund, RefundStatus.PROCESSING, by=by, why=why, values=values)
    if refund.paid_outside:
        _move(refund, RefundStatus.SUCCEEDED, by=by, why="paid outside of the provider", values={"completed_at": Now()})
        refund_succeeded(refund, payment, by=by)
    else:
        durability.start_saga("payments.refund", key=refund.number, subject=payment.reference)


def _move(refund: Refund, to: str, *, by: str, why: str, values: dict[str, object] | None = None) -> None:
    transition(refund, to, edges=REFUND_EDGES, history=RefundHistory, by=by, why=why, values=values)
