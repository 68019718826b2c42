"""What the provider says of a payment: webhooks, scheduled reads and listed events all end in `apply_intent`.

Any order, any number of times: the same final state.
"""

from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F
from django.db.models.functions import Now

from durability import services as durability
from foundation.transition import transition
from payments import ledger, metrics
from payments.errors import PaymentInProgress
from payments.events import PaymentCancelled, PaymentCaptured, PaymentFailed
from payments.locks import lock_payment
from payments.metrics import count_after_commit
from payments.models import Payment, PaymentHistory
from payments.services import credit
from payments.services.about import about
from payments.services.contradictions import contradiction, note_contradiction
from payments.services.tries import read_again_later
from payments.states import PAYMENT_EDGES, PAYMENT_LIVE, PaymentStatus
from payments.types import BalanceTransaction, Failure, Intent

_OPEN_STATES = {
    "requires_payment_method": PaymentStatus.PENDING,
    "requires_confirmation": PaymentStatus.PENDING,
    "requires_capture": PaymentStatus.PROCESSING,
    "requires_action": PaymentStatus.REQUIRES_ACTION,
    "processing": PaymentStatus.PROCESSING,
}


def apply_intent(payment: Payment, intent: Intent, *, by: str) -> bool:
    """Bring a locked payment to what the provider says of its intent, in the caller's transaction.

    False where the provider's amount, currency, mode or intent contradicts ours: then nothing is marked paid, the
    contradiction is noted on the payment, and told.
    """
    contradicts = contradiction(payment, intent)
    if contradicts:
        note_contradiction(payment, intent, contradicts)
        return False
    if payment.provider_reference is None:
        Payment.objects.filter(pk=payment.pk).update(provider_reference=intent.id)
        payment.provider_reference = intent.id
    if intent.status == "succeeded":
        _capture(payment, intent, by=by)
    elif intent.status == "canceled":
        _close(payment, intent, by=by)
    else:
        _keep_open(payment, intent, by=by)
    return True


def _close(payment: Payment, intent: Intent, *, by: str) -> None:
    """What was declined when we confirmed it is cancelled before we say `failed`; a webhook may tell of it first."""
    if payment.status not in PAYMENT_LIVE:
        return
    if payment.confirm and intent.failure:
        fail(payment, intent.failure, by=by)
        return
    cancel(payment, by=by)


def cancel(payment: Payment, *, by: str, why: str = "") -> None:
    """A live, locked attempt becomes `cancelled`, in the caller's transaction."""
    _move(payment, PaymentStatus.CANCELLED, by=by, why=why, values=read_again_later(payment))
    durability.publish(PaymentCancelled(**about(payment)))


def fail(payment: Payment, failure: Failure, *, by: str) -> None:
    """A live, locked attempt becomes `failed`, in the caller's transaction."""
    if payment.provider_reference:
        _count_decline(payment, failure)
    else:  # nobody could even be asked for the money
        count_after_commit(metrics.PAYMENT_REQUESTS, "error")
    _move(
        payment,
        PaymentStatus.FAILED,
        by=by,
        why=failure.message,
        values={
            "failure_code": failure.code,
            "failure_decline_code": failure.decline_code,
            "failure_message": failure.message,
            **read_again_later(payment),
        },
    )
    durability.publish(PaymentFailed(**about(payment), code=failure.code))


def _count_decline(payment: Payment, failure: Failure) -> None:
    """Once, however often the same news arrives: in the browser a decline is not the attempt's end, but it counts."""
    if (failure.code, failure.decline_code) != (payment.failure_code, payment.failure_decline_code):
        count_after_commit(metrics.PAYMENT_REQUESTS, "failed")


def _keep_open(payment: Payment, intent: Intent, *, by: str) -> None:
    if payment.status not in PAYMENT_LIVE:
        if payment.status != PaymentStatus.SUCCEEDED:
            # Old news, or an opening that overslept its own cancellation: in either case nobody may pay this intent.
            durability.start_saga("payments.close_intent", key=payment.number, subject=payment.reference)
        return
    failure = intent.failure
    values: dict[str, Any] = {
        "failure_code": failure.code if failure else "",
        "failure_decline_code": failure.decline_code if failure else "",
        "failure_message": failure.message if failure else "",
    }
    if failure:
        _count_decline(payment, failure)
    to = _OPEN_STATES[intent.status]
    if payment.status == to:
        Payment.objects.filter(pk=payment.pk).update(**values)
        for name, value in values.items():
            setattr(payment, name, value)
    else:
        _move(payment, to, by=by, values=values)


def _capture(payment: Payment, intent: Intent, *, by: str) -> None:
    charge = intent.charge
    captured_minor = intent.amount_received_minor
    credit_held = payment.status in PAYMENT_LIVE  # an attempt that ended before has given its store credit back
    if payment.status != PaymentStatus.SUCCEEDED:
        _move(
            payment,
            PaymentStatus.SUCCEEDED,
            by=by,
            values={
                "captured_minor": captured_minor,
                "captured_at": charge.created_at if charge else intent.created_at,
                "charge_reference": charge.id if charge else None,
                "paid_at": Now(),
                **read_again_later(payment),
                "failure_code": "",
                "failure_decline_code": "",
                "failure_message": "",
            },
        )
        ledger.post(
            key=f"capture:{payment.number}",
            kind="capture",
            debit=ledger.clearing(payment.currency),
            credit=ledger.customer_account(payment.merchant_id, payment.customer, payment.currency),
            amount_minor=captured_minor,
            by=by,
            merchant_id=payment.merchant_id,
            subject=payment.number,
            reference=payment.reference,
        )
        settling = _settle(payment, credit_held=credit_held, by=by)
        count_after_commit(metrics.PAYMENT_REQUESTS, "success")
        count_after_commit(metrics.CAPTURED, payment.currency, captured_minor)
        durability.publish(PaymentCaptured(**about(payment), settling=settling))
    if charge and charge.balance_transaction:
        post_fee(charge.balance_transaction, payment=payment, by=by)


def _settle(payment: Payment, *, credit_held: bool, by: str) -> bool:
    """Make this success the one that pays the reference; False if another one does already, or if the store credit
    that was to pay a part of it is not held any more: what the provider took alone pays for nothing.
    """
    if payment.credit_minor and not credit_held:
        return False
    try:
        with transaction.atomic():
            Payment.objects.filter(pk=payment.pk).update(settling=True, credit_captured_minor=F("credit_minor"))
    except IntegrityError:
        credit.release_credit(payment, by=by)
        return False
    payment.settling, payment.credit_captured_minor = True, payment.credit_minor
    return True


def take_credit(number: str, *, by: str) -> None:
    """Set aside the store credit that a new attempt is to be paid with, in the transaction that recorded it and after
    its other locks. Where credit covers the whole, the attempt has succeeded with that.

    Raises StoreCreditInsufficient, PaymentInProgress.
    """
    payment = lock_payment(Payment.id_of(number))
    if not payment.credit_minor or payment.status != PaymentStatus.PENDING:
        return
    credit.hold_credit(payment, by=by)
    if payment.amount_minor:
        return
    paid = {"settling": True, "credit_captured_minor": payment.credit_minor, "paid_at": Now()}
    try:
        with transaction.atomic():
            _move(payment, PaymentStatus.SUCCEEDED, by=by, values=paid)
    except IntegrityError as error:  # an earlier attempt has succeeded meanwhile
        raise PaymentInProgress from error
    count_after_commit(metrics.PAYMENT_REQUESTS, "success")
    durability.publish(PaymentCaptured(**about(payment), settling=True))


def post_fee(booked: BalanceTransaction, *, payment: Payment | None, by: str, subject: str = "") -> None:
    """Post the provider's fee once per balance transaction, whoever learns of it first. `subject`: if not the payment."""
    if booked.fee_minor:
        ledger.post(
            key=f"fee:{booked.id}",
            kind="fee",
            debit=ledger.fees(booked.currency),
            credit=ledger.clearing(booked.currency),
            amount_minor=booked.fee_minor,
            by=by,
            merchant_id=payment.merchant_id if payment else None,
            subject=subject or (payment.number if payment else ""),
            reference=payment.reference if payment else "",
        )


def _move(payment: Payment, to: str, *, by: str, values: dict[str, Any], why: str = "") -> None:
    if payment.person_needed_at:
        values = values | {"person_needed_at": None, "person_needed_why": ""}  # the provider has spoken, or a person
    transition(payment, to, edges=PAYMENT_EDGES, history=PaymentHistory, by=by, why=why, values=values)
    if to in (PaymentStatus.FAILED, PaymentStatus.CANCELLED):
        credit.release_credit(payment, by=by)
