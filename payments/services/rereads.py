"""Reading again at the provider: after an event, on a schedule, or because a person asks. A webhook is only a hint."""

import logging
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from foundation.database import in_seconds
from foundation.errors import NotFound
from payments import gateway
from payments.errors import ProviderBusy, ProviderRefused, ProviderUnavailable, ProviderUnsure
from payments.locks import lock_payment, lock_refund
from payments.models import Dispute, Payment, Payout, Refund
from payments.services import disputes, payouts
from payments.services.payment_news import apply_intent
from payments.services.refund_news import apply_refund
from payments.services.refunds_elsewhere import record_elsewhere
from payments.states import PaymentStatus
from payments.types import Intent, ProviderRefund

log = logging.getLogger(__name__)

DISPUTES = ("dp_", "du_")  # the provider has used both


def sync_provider_object(*, event_type: str, object_id: str, intent_id: str) -> None:
    """Read what an event told of, and apply it. Objects that are not ours are left to reconciliation."""
    if event_type == "payment_intent.created" and Payment.objects.filter(provider_reference=intent_id).exists():
        return  # we opened it, and know
    if object_id.startswith(DISPUTES):
        if not disputes.sync_dispute(object_id, by="webhook") and intent_id and sync_payment(intent_id, by="webhook"):
            disputes.sync_dispute(object_id, by="webhook")
    elif object_id.startswith("po_"):
        payouts.sync_payout(object_id, by="webhook")
    elif object_id.startswith(("re_", "pyr_")):
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


def sync_refund(reference: str, *, by: str, why: str = "") -> bool:
    """Read a refund and apply it to ours; one that was made elsewhere is recorded, with `why` for its reason.

    False if its payment is none of ours. Belongs outside of transactions. Raises ProviderUnsure, ProviderBusy,
    ProviderRefused.
    """
    news = gateway.retrieve_refund(reference)
    refund_id = _refund_of(news)
    if refund_id is not None:
        with transaction.atomic(durable=True):
            refund, payment = lock_refund(refund_id)
            apply_refund(refund, payment, news, by=by)
        return True
    if not news.payment_intent:
        return False
    captured = Payment.objects.filter(provider_reference=news.payment_intent, status=PaymentStatus.SUCCEEDED)
    if not captured.exists():  # its own news are late
        sync_payment(news.payment_intent, by=by)
    return record_elsewhere(news, by=by, why=why)


def _refund_of(news: ProviderRefund) -> UUID | None:
    """Our row of a refund: by its id, or by our number where its answer never reached us."""
    known = Refund.objects.filter(provider_reference=news.id).values_list("pk", flat=True).first()
    if known or news.metadata.get("instance") != settings.INSTANCE_ID:
        return known
    try:
        refund_id = Refund.id_of(news.metadata.get("refund", ""))
    except NotFound:
        return None
    unanswered = Refund.objects.filter(pk=refund_id, provider_reference__isnull=True)
    return unanswered.values_list("pk", flat=True).first()


def recheck_due() -> int:
    """Read again, at the provider, what has been open for longer than news usually take. Returns how many."""
    checked = 0
    for payment in _due(Payment.objects.filter(provider_reference__isnull=False)):
        checked += _recheck(sync_payment, payment.provider_reference)
    for refund in _due(Refund.objects.filter(provider_reference__isnull=False)):
        checked += _recheck(sync_refund, refund.provider_reference)
    for dispute in _due(Dispute.objects.all()):
        checked += _recheck(disputes.sync_dispute, dispute.provider_reference)
    for payout in _due(Payout.objects.all()):
        checked += _recheck(payouts.sync_payout, payout.provider_reference)
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


def unavailable(error: Exception) -> ProviderUnavailable:
    return ProviderUnavailable(f"The payment provider does not answer ({error}): try again in a moment.")
