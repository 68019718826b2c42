"""Refunds that were made at the provider behind our back, most often in its dashboard: recorded, held and posted.

Money that has moved stands in the books even where it breaks our sums: then a discrepancy opens, and a person looks.
"""

import logging

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from foundation.database import in_seconds
from payments.locks import lock_payment, lock_refund
from payments.models import Payment, Refund, RefundHistory
from payments.services.refund_news import PROVIDER_STATES, apply_refund, hold_unasked, refund_succeeded
from payments.states import REFUND_ENDED_UNPAID, PaymentStatus, RefundStatus
from payments.types import ProviderRefund

log = logging.getLogger(__name__)

IN_THE_DASHBOARD = "made at the provider, not here"


def record_elsewhere(news: ProviderRefund, *, by: str, why: str = "") -> bool:
    """Record a refund that no row of ours stands for. False if its payment is none of ours, or if it came to nothing.

    Belongs outside of transactions. Its payment's capture has to be in our books.
    """
    status = PROVIDER_STATES[news.status]
    captured = Payment.objects.filter(provider_reference=news.payment_intent, status=PaymentStatus.SUCCEEDED)
    payment_id = captured.values_list("pk", flat=True).first() if news.payment_intent else None
    if payment_id is None or status in REFUND_ENDED_UNPAID:
        return False
    with transaction.atomic(durable=True):
        payment = lock_payment(payment_id)
        if news.currency != payment.currency:
            log.error("refund %s is in %s, %s in %s", news.id, news.currency, payment.number, payment.currency)
            return False
        twin = Refund.objects.filter(provider_reference=news.id).first()
        if twin:  # another event of the same change was faster
            apply_refund(*lock_refund(twin.pk), news, by=by)
        else:
            _create(payment, news, status, by=by, why=why or IN_THE_DASHBOARD)
    return True


def _create(payment: Payment, news: ProviderRefund, status: str, *, by: str, why: str) -> None:
    paid = status == RefundStatus.SUCCEEDED
    refund = Refund(
        merchant_id=payment.merchant_id,
        payment=payment,
        status=status,
        amount_minor=news.amount_minor,
        currency=news.currency,
        reason=why,
        requested_by=by,
        made_elsewhere=True,
        first_sent_at=news.created_at,
        provider_reference=news.id,
        provider_created_at=news.created_at,
        completed_at=Now() if paid else None,
        next_check_at=in_seconds(settings.SETTLED_RECHECK_FIRST_S if paid else settings.PAYMENT_RECHECK_FIRST_S),
    )
    refund.save(force_insert=True)
    RefundHistory.objects.create(subject=refund, from_state="", to_state=status, by=by, why=why)
    log.warning("refund %s of %s was made elsewhere: %s", refund.number, payment.number, news.id)
    hold_unasked(refund, payment, by=by)
    if paid:
        refund_succeeded(refund, payment, by=by)
