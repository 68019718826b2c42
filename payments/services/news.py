"""What the provider says: webhooks, scheduled reads and listed events all end in `apply_intent` and `apply_refund`.

Any order, any number of times: the same final state. A webhook is a hint; the object is read again before it counts.
"""

import logging
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F
from django.db.models.functions import Now

from durability import services as durability
from foundation.database import database_now, delete_in_batches, in_seconds
from foundation.errors import NotFound
from foundation.transition import transition
from payments import gateway, ledger, metrics
from payments.errors import ProviderBusy, ProviderRefused, ProviderUnavailable, ProviderUnsure
from payments.events import (
    PaymentCancelled,
    PaymentCaptured,
    PaymentContradicted,
    PaymentFailed,
    ProviderEventReceived,
    RefundFailed,
    RefundSucceeded,
)
from payments.locks import lock_payment, lock_refund
from payments.metrics import count_after_commit
from payments.models import InboxEvent, Payment, PaymentHistory, Refund, RefundHistory
from payments.states import (
    PAYMENT_EDGES,
    PAYMENT_LIVE,
    REFUND_EDGES,
    PaymentStatus,
    RefundStatus,
)
from payments.types import BalanceTransaction, Failure, Intent, ProviderEvent, ProviderRefund

log = logging.getLogger(__name__)

_OPEN_STATES = {
    "requires_payment_method": PaymentStatus.PENDING,
    "requires_confirmation": PaymentStatus.PENDING,
    "requires_capture": PaymentStatus.PROCESSING,
    "requires_action": PaymentStatus.REQUIRES_ACTION,
    "processing": PaymentStatus.PROCESSING,
}
_REFUND_STATES = {
    "pending": RefundStatus.PENDING,
    "requires_action": RefundStatus.REQUIRES_ACTION,
    "succeeded": RefundStatus.SUCCEEDED,
    "failed": RefundStatus.FAILED,
    "canceled": RefundStatus.CANCELLED,
}


# --- Payments ---------------------------------------------------------------------------------------


def apply_intent(payment: Payment, intent: Intent, *, by: str) -> bool:
    """Bring a locked payment to what the provider says of its intent, in the caller's transaction.

    False where the provider's amount, currency or mode contradicts ours: then nothing changes, and the news is out.
    """
    contradiction = _contradiction(payment, intent)
    if contradiction:
        log.error("payment %s: %s", payment.number, contradiction)
        durability.publish(PaymentContradicted(**about(payment), detail=contradiction))
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


def _contradiction(payment: Payment, intent: Intent) -> str:
    if (intent.amount_minor, intent.currency) != (payment.amount_minor, payment.currency):
        return (
            f"the provider has {intent.amount_minor} {intent.currency}, we asked for "
            f"{payment.amount_minor} {payment.currency}"
        )
    if intent.livemode != gateway.livemode():
        return "the provider's object and our key are not of the same mode (live, test)"
    if payment.provider_reference not in (None, intent.id):
        return f"the provider reports {intent.id}, we opened {payment.provider_reference}"
    return ""


def _close(payment: Payment, intent: Intent, *, by: str) -> None:
    """What was declined when we confirmed it is cancelled before we say `failed`; a webhook may tell of it first."""
    if payment.status not in PAYMENT_LIVE:
        return
    if payment.confirm and intent.failure:
        fail(payment, intent.failure, by=by)
        return
    _move(payment, PaymentStatus.CANCELLED, by=by, values={"next_check_at": None})
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
            "next_check_at": None,
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
                "next_check_at": None,
                "failure_code": "",
                "failure_decline_code": "",
                "failure_message": "",
            },
        )
        settling = _settle(payment)
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
        count_after_commit(metrics.PAYMENT_REQUESTS, "success")
        count_after_commit(metrics.CAPTURED, payment.currency, captured_minor)
        durability.publish(PaymentCaptured(**about(payment), settling=settling))
    if charge and charge.balance_transaction:
        post_fee(charge.balance_transaction, payment=payment, by=by)


def _settle(payment: Payment) -> bool:
    """Make this success the one that pays the reference; False if another one does already."""
    try:
        with transaction.atomic():
            Payment.objects.filter(pk=payment.pk).update(settling=True)
    except IntegrityError:
        return False
    payment.settling = True
    return True


def post_fee(booked: BalanceTransaction, *, payment: Payment | None, by: str) -> None:
    """Post the provider's fee once per balance transaction, whoever learns of it first."""
    if booked.fee_minor:
        ledger.post(
            key=f"fee:{booked.id}",
            kind="fee",
            debit=ledger.fees(booked.currency),
            credit=ledger.clearing(booked.currency),
            amount_minor=booked.fee_minor,
            by=by,
            merchant_id=payment.merchant_id if payment else None,
            subject=payment.number if payment else "",
            reference=payment.reference if payment else "",
        )


def about(payment: Payment) -> dict[str, Any]:
    """The common payload of a payment's events."""
    return {
        "payment": payment.number,
        "merchant_id": str(payment.merchant_id),
        "reference": payment.reference,
        "amount_minor": payment.amount_minor,
        "currency": payment.currency,
        "provider_reference": payment.provider_reference or "",
    }


def _move(payment: Payment, to: str, *, by: str, values: dict[str, Any], why: str = "") -> None:
    transition(payment, to, edges=PAYMENT_EDGES, history=PaymentHistory, by=by, why=why, values=values)


# --- Refunds ----------------------------------------------------------------------------------------


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
    durability.publish(RefundFailed(**about_refund(refund, payment)))


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


# --- How news arrive --------------------------------------------------------------------------------


def receive_webhook(*, payload: bytes, signature: str) -> bool:
    """Store a signed event before it is acknowledged. False if it was there already. Raises SignatureInvalid."""
    return _store_event(gateway.parse_webhook(payload, signature))


def replay_events(*, since: datetime) -> tuple[int, int]:
    """List the provider's events since a moment and store those that no webhook brought: (listed, new)."""
    listed = new = 0
    for event in gateway.list_events(since=since):
        listed += 1
        new += _store_event(event)
    return listed, new


@transaction.atomic(durable=True)
def _store_event(event: ProviderEvent) -> bool:
    row = InboxEvent(
        id=event.id,
        type=event.type,
        object_id=event.object_id,
        intent_id=event.intent_id,
        livemode=event.livemode,
        provider_created_at=event.created_at,
    )
    known = InboxEvent.objects.filter(pk=event.id)
    if known.exists():
        return False
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        return False
    durability.publish(
        ProviderEventReceived(event=event.id, type=event.type, object_id=event.object_id, intent_id=event.intent_id)
    )
    return True


def sync_provider_object(*, event_type: str, object_id: str, intent_id: str) -> None:
    """Read what an event told of, and apply it. Objects that are not ours are left to reconciliation."""
    if event_type == "payment_intent.created" and Payment.objects.filter(provider_reference=intent_id).exists():
        return  # we opened it, and know
    if object_id.startswith("re_"):
        sync_refund(object_id, by="webhook")
    elif intent_id:
        sync_payment(intent_id, by="webhook")


def sync_payment(intent_id: str, *, by: str) -> bool:
    """Read an intent and apply it to our payment. False if it is none of ours, or contradicts it.

    Belongs outside of transactions. Raises ProviderUnsure, ProviderBusy, ProviderRefused.
    """
    intent = gateway.retrieve_intent(intent_id)
    payment_id = _payment_of(intent)
    if payment_id is None:
        return False
    with transaction.atomic(durable=True):
        return apply_intent(lock_payment(payment_id), intent, by=by)


def _payment_of(intent: Intent) -> Any:
    known = Payment.objects.filter(provider_reference=intent.id).values_list("pk", flat=True).first()
    if known or intent.metadata.get("instance") != settings.INSTANCE_ID:
        return known
    try:  # opened by us, but the answer never reached us
        number = Payment.id_of(intent.metadata.get("payment", ""))
    except NotFound:
        return None
    return Payment.objects.filter(pk=number, provider_reference__isnull=True).values_list("pk", flat=True).first()


def sync_refund(reference: str, *, by: str) -> bool:
    """Read a refund and apply it to ours. False if it is none of ours. Belongs outside of transactions.

    Raises ProviderUnsure, ProviderBusy, ProviderRefused.
    """
    news = gateway.retrieve_refund(reference)
    refund_id = Refund.objects.filter(provider_reference=news.id).values_list("pk", flat=True).first()
    if refund_id is None and news.metadata.get("instance") != settings.INSTANCE_ID:
        return False
    if refund_id is None:
        try:
            refund_id = Refund.id_of(news.metadata.get("refund", ""))
        except NotFound:
            return False
    with transaction.atomic(durable=True):
        try:
            refund, payment = lock_refund(refund_id)
        except NotFound:
            return False
        apply_refund(refund, payment, news, by=by)
    return True


def recheck_due() -> int:
    """Read again, at the provider, what has been open for longer than news usually take. Returns how many."""
    checked = 0
    for payment in _due(Payment.objects.filter(provider_reference__isnull=False)):
        checked += _recheck(sync_payment, payment.provider_reference)
    for refund in _due(Refund.objects.filter(provider_reference__isnull=False)):
        checked += _recheck(sync_refund, refund.provider_reference)
    return checked


def _due(rows: Any) -> list[Any]:
    """Take a batch of due rows, and put their next check off first: a process that dies here loops on nothing."""
    with transaction.atomic(durable=True):
        due = list(
            rows.select_for_update(skip_locked=True)
            .filter(next_check_at__lte=Now())
            .order_by("next_check_at")[: settings.PAYMENT_RECHECK_BATCH]
        )
        for row in due:
            pause_s = min(
                settings.PAYMENT_RECHECK_LONGEST_S, settings.PAYMENT_RECHECK_FIRST_S * 2 ** min(row.checks, 20)
            )
            type(row).objects.filter(pk=row.pk).update(next_check_at=in_seconds(pause_s), checks=F("checks") + 1)
    return due


def _recheck(sync: Any, reference: str) -> int:
    try:
        sync(reference, by="re-check")
    except (ProviderUnsure, ProviderBusy, ProviderRefused) as error:
        log.warning("re-check of %s: %s", reference, error)
        return 0
    return 1


def catch_up_since() -> datetime:
    """From where the event list has to be read: a little before the newest event that we have."""
    newest = InboxEvent.objects.order_by("-provider_created_at").values_list("provider_created_at", flat=True).first()
    margin = timedelta(seconds=settings.INBOX_CATCH_UP_INTERVAL_S)
    return (newest or database_now() - timedelta(days=1)) - margin


def unavailable(error: Exception) -> ProviderUnavailable:
    return ProviderUnavailable(f"The payment provider does not answer ({error}): try again in a moment.")


def clean_up_inbox() -> int:
    """Delete events that the provider cannot send again, in bounded batches. Returns how many."""
    old = Now() - timedelta(days=settings.INBOX_KEPT_FOR_DAYS)
    return delete_in_batches(InboxEvent.objects.filter(received_at__lt=old), batch=settings.RETENTION_BATCH)
