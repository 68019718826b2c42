"""What the provider says and cannot be: noted once on our row, told once, and nothing is marked paid for it.

A contradiction is not healed in silence. Reconciliation opens a discrepancy at once; a person decides. Meanwhile: an
intent that can still be paid is cancelled at the provider, so that no wrong amount is taken; money that was taken already
pays for nothing, and is given back by that person. The order goes on without it: it expires as if nobody had paid.
"""

import logging

from django.db.models.functions import Now

from durability import services as durability
from payments import gateway
from payments.events import PaymentContradicted, RefundContradicted
from payments.models import Payment, Refund
from payments.services.about import about, about_refund
from payments.states import PAYMENT_LIVE, PaymentStatus
from payments.types import Intent, ProviderRefund

log = logging.getLogger(__name__)

NOBODY_CAN_PAY = ("canceled", "succeeded")


def contradiction(payment: Payment, intent: Intent) -> str:
    """In what an intent contradicts our payment: intent, mode, currency, amount; empty if in nothing."""
    if payment.provider_reference not in (None, intent.id):
        return "intent"
    if intent.status == "canceled":
        return ""  # no money will ever move for it, whatever it says of amounts
    if intent.livemode != gateway.livemode():
        return "mode"
    if intent.currency != payment.currency:
        return "currency"
    return "" if asked_minor(intent) == _expected_minor(payment) else "amount"


def asked_minor(intent: Intent) -> int:
    """What the provider took; of an intent that is not paid, what it would take."""
    return intent.amount_received_minor if intent.status == "succeeded" else intent.amount_minor


def _expected_minor(payment: Payment) -> int:
    """What is in our books once it is there, with what finance corrected."""
    if payment.status == PaymentStatus.SUCCEEDED:
        return payment.captured_minor + payment.corrected_minor
    return payment.amount_minor


def note_contradiction(payment: Payment, intent: Intent, contradicts: str) -> None:
    """Note on a locked payment what contradicts it, and tell; in the caller's transaction. Once for each contradiction."""
    if contradicts == "intent" and intent.status == "canceled":
        return  # not what we opened, and nobody can pay it
    charge = intent.charge if intent.charge and intent.status == "succeeded" else None
    detail = _detail(payment, intent, contradicts, charge.id if charge else intent.id)
    if detail in payment.contradiction.splitlines():
        return
    values = {"contradiction": "\n".join([*filter(None, [payment.contradiction]), detail])}
    if contradicts != "intent" and payment.provider_reference is None:
        values["provider_reference"] = intent.id  # it is ours, by our number: else nobody could find it again
    if contradicts != "intent" and charge and payment.charge_reference is None:
        values["charge_reference"] = charge.id
    Payment.objects.filter(pk=payment.pk).update(**values, contradicted_at=payment.contradicted_at or Now())
    for name, value in values.items():
        setattr(payment, name, value)
    log.error("payment %s: %s", payment.number, detail)
    durability.publish(
        PaymentContradicted(
            **about(payment),
            detail=detail,
            contradicts=contradicts,
            intent=intent.id,
            charge=charge.id if charge else "",
            theirs_amount_minor=asked_minor(intent),
            theirs_currency=intent.currency,
            theirs_status=intent.status,
            theirs_at=(charge.created_at if charge else intent.created_at).isoformat(),
        )
    )
    if contradicts in ("amount", "currency") and payment.status in PAYMENT_LIVE and intent.status not in NOBODY_CAN_PAY:
        durability.start_saga("payments.close_intent", key=payment.number, subject=payment.reference)


def _detail(payment: Payment, intent: Intent, contradicts: str, what: str) -> str:
    match contradicts:
        case "intent":
            return f"{what}: the provider reports it under our number, we opened {payment.provider_reference}"
        case "mode":
            return f"{what}: the provider's object and our key are not of the same mode (live, test)"
        case _:
            theirs, ours = asked_minor(intent), _expected_minor(payment)
            return f"{what}: the provider has {theirs} {intent.currency}, we have {ours} {payment.currency}"


def refund_contradiction(refund: Refund, news: ProviderRefund) -> str:
    """In what the provider's refund contradicts ours: refund, currency, amount; empty if in nothing."""
    if refund.provider_reference not in (None, news.id):
        return "refund"
    if news.currency != refund.currency:
        return "currency"
    return "" if news.amount_minor == refund.amount_minor + refund.corrected_minor else "amount"


def note_refund_contradiction(refund: Refund, payment: Payment, news: ProviderRefund, contradicts: str) -> None:
    """Note on a locked refund what contradicts it, and tell; in the caller's transaction. Once for each contradiction."""
    ours = f"{refund.amount_minor} {refund.currency}"
    detail = f"{news.id}: the provider has {news.amount_minor} {news.currency}, we have {ours}"
    if contradicts == "refund":
        detail = f"{news.id}: the provider reports it under our number, ours is {refund.provider_reference}"
    if detail in refund.contradiction.splitlines():
        return
    values = {"contradiction": "\n".join([*filter(None, [refund.contradiction]), detail])}
    if contradicts != "refund" and refund.provider_reference is None:
        values["provider_reference"] = news.id
    Refund.objects.filter(pk=refund.pk).update(**values, contradicted_at=refund.contradicted_at or Now())
    for name, value in values.items():
        setattr(refund, name, value)
    log.error("refund %s: %s", refund.number, detail)
    durability.publish(
        RefundContradicted(
            **about_refund(refund, payment),
            detail=detail,
            contradicts=contradicts,
            theirs=news.id,
            theirs_amount_minor=news.amount_minor,
            theirs_currency=news.currency,
            theirs_status=news.status,
            theirs_at=news.created_at.isoformat(),
        )
    )
