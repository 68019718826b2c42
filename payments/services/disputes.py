"""What the provider says of a dispute, and what follows for the books: webhooks and re-reads all end in `_apply`.

Any order, any number of times, from several workers at once: the same final state. An appeal may take a dispute back to
where it was, so its states alone cannot tell an old reading from a new one. Each reading that is applied is counted; one
that was begun before another was applied is thrown away, and made anew.
"""

import logging
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Min, Q, Sum

from durability import services as durability
from foundation.database import database_now, in_seconds
from foundation.transition import transition
from payments import gateway, ledger, metrics
from payments.errors import ProviderBusy
from payments.events import DisputeClosed, DisputeContradicted, DisputeOpened
from payments.locks import lock_payment
from payments.metrics import count_after_commit
from payments.models import Dispute, DisputeHistory, Payment, Posting
from payments.services import credit, loyalty
from payments.services.payment_news import post_fee
from payments.services.refund_books import settle_debt_by_loss
from payments.states import DISPUTE_CLOSED, DISPUTE_EDGES, DISPUTE_OPEN, DisputeStatus
from payments.types import BalanceTransaction, ProviderDispute

log = logging.getLogger(__name__)

_STATES = {
    "warning_needs_response": DisputeStatus.INQUIRY_NEEDS_RESPONSE,
    "warning_under_review": DisputeStatus.INQUIRY_UNDER_REVIEW,
    "warning_closed": DisputeStatus.INQUIRY_CLOSED,
    "needs_response": DisputeStatus.NEEDS_RESPONSE,
    "under_review": DisputeStatus.UNDER_REVIEW,
    "appeal_needs_response": DisputeStatus.NEEDS_RESPONSE,
    "appeal_under_review": DisputeStatus.UNDER_REVIEW,
    "won": DisputeStatus.WON,
    "lost": DisputeStatus.LOST,
    "prevented": DisputeStatus.PREVENTED,
}
# What was withdrawn is the customer's for good: the bank said so, or the provider settled it before the bank did.
_GONE = (DisputeStatus.LOST, DisputeStatus.PREVENTED)
_TRIES = 5  # readings of one dispute at once; news of one are few, and their key keeps them in order anyway


def sync_dispute(reference: str, *, by: str) -> bool:
    """Read a dispute and apply it to ours. False if its payment is none of ours.

    Belongs outside of transactions. Raises ProviderUnsure, ProviderBusy, ProviderRefused.
    """
    for _ in range(_TRIES):
        seen = _readings(reference)
        news = gateway.retrieve_dispute(reference)
        payment_id = _payment_of(news)
        if payment_id is None:
            return False
        with transaction.atomic(durable=True):
            if _apply(lock_payment(payment_id), news, seen=seen, by=by):
                return True
    raise ProviderBusy(f"{reference} is read by others all the time")


def _readings(reference: str) -> int:
    """How many readings of a dispute were applied so far."""
    known = Dispute.objects.filter(provider_reference=reference).values_list("readings", flat=True).first()
    return known or 0


def _payment_of(news: ProviderDispute) -> UUID | None:
    known = Payment.objects.filter(Q(provider_reference=news.payment_intent) | Q(charge_reference=news.charge))
    return known.values_list("pk", flat=True).first()


def _apply(payment: Payment, news: ProviderDispute, *, seen: int, by: str) -> bool:
    """Bring a dispute of a locked payment to what the provider says. False if `news` may be older than what we know."""
    dispute = Dispute.objects.select_for_update().filter(provider_reference=news.id).first()
    if (dispute.readings if dispute else 0) != seen:
        return False
    to = _STATES[news.status]
    if dispute is None:
        dispute, before = _record(payment, news, to, by=by), ""
    else:
        before = dispute.status
    bookings = news.bookings
    if _foreign(payment, news):
        _note_foreign(dispute, payment, news)
        bookings = []
    for booked in bookings:
        _post_booking(booked, dispute, payment, by=by)
    withdrawn_minor = -sum(booked.amount_minor for booked in bookings)
    lost_minor = withdrawn_minor if to in _GONE else 0
    change_minor = lost_minor - dispute.lost_minor
    if change_minor < 0:  # it is back before it is owed again
        _post_recovery(dispute, payment, -change_minor, by=by)
    values = {
        "amount_minor": news.amount_minor,
        "reason": news.reason,
        "refundable": news.refundable,
        "evidence_due_at": news.evidence_due_at,
        "withdrawn_minor": withdrawn_minor,
        "lost_minor": lost_minor,
        "closed_at": (dispute.closed_at or database_now()) if to in DISPUTE_CLOSED else None,
        "readings": dispute.readings + 1,
    }
    values["next_check_at"] = _next_check(dispute, values["closed_at"])
    if before and before != to:
        transition(dispute, to, edges=DISPUTE_EDGES, history=DisputeHistory, by=by, values=values)
    else:
        Dispute.objects.filter(pk=dispute.pk).update(**values)
        for name, value in values.items():
            setattr(dispute, name, value)
    _mark(payment)
    settle_debt_by_loss(payment, dispute, by=by)
    if change_minor > 0:  # what was owed is free before it is lost
        _post_loss(dispute, payment, change_minor, by=by)
    loyalty.adjust_points(payment, cause=f"{dispute.number}:{dispute.readings}", by=by)
    if before != to:
        _tell(dispute, payment, before=before)
    return True


def _record(payment: Payment, news: ProviderDispute, status: str, *, by: str) -> Dispute:
    dispute = Dispute.objects.create(
        merchant_id=payment.merchant_id,
        payment=payment,
        provider_reference=news.id,
        status=status,
        amount_minor=news.amount_minor,
        currency=news.currency,
        opened_at=news.created_at,
        closed_at=database_now() if status in DISPUTE_CLOSED else None,
    )
    DisputeHistory.objects.create(subject=dispute, from_state="", to_state=status, by=by, why=news.reason)
    return dispute


def _foreign(payment: Payment, news: ProviderDispute) -> bool:
    """Whether a dispute moves another currency than its payment did: our books could not balance it."""
    return {news.currency, *(booked.currency for booked in news.bookings)} != {payment.currency}


def _note_foreign(dispute: Dispute, payment: Payment, news: ProviderDispute) -> None:
    """Note it on the payment, and tell: a person must look. Once."""
    detail = f"{news.id}: a dispute in another currency than {payment.currency}: nothing of it is in our books"
    if detail not in payment.contradiction.splitlines():
        log.error("payment %s: %s", payment.number, detail)
        payment.contradiction = "\n".join(filter(None, [payment.contradiction, detail]))
        payment.contradicted_at = payment.contradicted_at or database_now()
        payment.save(update_fields=["contradiction", "contradicted_at"])
        durability.publish(DisputeContradicted(**_about(dispute, payment), detail=detail, status=news.status))


def _next_check(dispute: Dispute, closed_at: Any) -> Any:
    """An open dispute is read again as scheduled; a closed one for as long as an appeal can turn it."""
    if closed_at and database_now() - closed_at > timedelta(days=settings.PAYMENT_RECHECK_CLOSED_FOR_DAYS):
        return None
    return dispute.next_check_at or in_seconds(settings.PAYMENT_RECHECK_LONGEST_S)


def _mark(payment: Payment) -> None:
    """Say on the payment what its disputes mean for refunds."""
    disputes = Dispute.objects.filter(payment=payment)
    # Lost, and no loss in our books: it took another currency, or its booking is yet to come. The customer has the money.
    unbooked = Q(status=DisputeStatus.LOST, lost_minor__lte=0)
    blocking = disputes.filter(Q(status__in=DISPUTE_OPEN) | unbooked, refundable=False)
    payment.disputed_at = blocking.aggregate(first=Min("opened_at"))["first"]
    payment.disputed_lost_minor = max(0, disputes.aggregate(lost=Sum("lost_minor"))["lost"] or 0)
    payment.save(update_fields=["disputed_at", "disputed_lost_minor"])


# --- The books --------------------------------------------------------------------------------------


def _post_booking(booked: BalanceTransaction, dispute: Dispute, payment: Payment, *, by: str) -> None:
    """What the provider withdrew or gave back, and the fee that it took for it, once per booking."""
    withdrawn = booked.amount_minor < 0
    account, clearing = ledger.disputes(booked.currency), ledger.clearing(booked.currency)
    if booked.amount_minor:
        ledger.post(
            key=f"dispute:{booked.id}",
            kind="dispute_withdrawn" if withdrawn else "dispute_reinstated",
            debit=account if withdrawn else clearing,
            credit=clearing if withdrawn else account,
            amount_minor=abs(booked.amount_minor),
            by=by,
            merchant_id=dispute.merchant_id,
            subject=dispute.number,
            reference=payment.reference,
            memo=f"{dispute.provider_reference} {dispute.reason}".strip(),
        )
    post_fee(booked, payment=payment, by=by, subject=dispute.number)


def _post_loss(dispute: Dispute, payment: Payment, lost_minor: int, *, by: str) -> None:
    """Move a lost amount to who bears it: before the sale is posted, what is left of this payment on the customer's
    account, and no other payment's money; the rest is the merchant's.
    """
    customer, merchant = _bearers(payment)
    left_minor = 0 if credit.is_sold(payment) else payment.captured_minor - credit.taken_before(payment, customer)
    by_customer_minor = max(0, min(lost_minor, left_minor))
    _move_loss(dispute, payment, customer, by_customer_minor, by=by)
    _move_loss(dispute, payment, merchant, lost_minor - by_customer_minor, by=by)


def _post_recovery(dispute: Dispute, payment: Payment, recovered_minor: int, *, by: str) -> None:
    """Move back what an appeal recovered: to the merchant, who has taken over the whole once the sale is posted; before
    it, first what the merchant bore.
    """
    customer, merchant = _bearers(payment)
    borne_minor = _borne(dispute, merchant)
    to_merchant_minor = recovered_minor if credit.is_sold(payment) else min(recovered_minor, borne_minor)
    _move_loss(dispute, payment, merchant, -to_merchant_minor, by=by)
    _move_loss(dispute, payment, customer, to_merchant_minor - recovered_minor, by=by)


def _bearers(payment: Payment) -> tuple[ledger.AccountKey, ledger.AccountKey]:
    return (
        ledger.customer_account(payment.merchant_id, payment.customer, payment.currency),
        ledger.merchant_payable(payment.merchant_id, payment.currency),
    )


def _borne(dispute: Dispute, account: ledger.AccountKey) -> int:
    """What of a dispute an account has borne so far."""
    kinds = ("dispute_lost", "dispute_recovered")
    moved = Posting.objects.filter(account_id=account.id, entry__subject=dispute.number, entry__kind__in=kinds)
    return moved.aggregate(total=Sum("amount_minor"))["total"] or 0


def _move_loss(dispute: Dispute, payment: Payment, bearer: ledger.AccountKey, change_minor: int, *, by: str) -> None:
    if not change_minor:
        return
    lost = change_minor > 0
    account = ledger.disputes(dispute.currency)
    kind = "dispute_lost" if lost else "dispute_recovered"
    ledger.post(
        key=f"{kind}:{dispute.number}:{dispute.readings}:{bearer.kind}",  # under the row's lock: one of each a reading
        kind=kind,
        debit=bearer if lost else account,
        credit=account if lost else bearer,
        amount_minor=abs(change_minor),
        by=by,
        merchant_id=dispute.merchant_id,
        subject=dispute.number,
        reference=payment.reference,
        memo=dispute.provider_reference,
    )


# --- The news ---------------------------------------------------------------------------------------


def _about(dispute: Dispute, payment: Payment) -> dict[str, Any]:
    return {
        "dispute": dispute.number,
        "payment": payment.number,
        "merchant_id": str(dispute.merchant_id),
        "reference": payment.reference,
        "amount_minor": dispute.amount_minor,
        "currency": dispute.currency,
        "provider_reference": dispute.provider_reference,
        "reason": dispute.reason,
    }


def _tell(dispute: Dispute, payment: Payment, *, before: str) -> None:
    """Publish that a dispute was opened, opened again, became one from an inquiry, or was closed."""
    payload = _about(dispute, payment)
    inquiry = dispute.status.startswith("inquiry")
    escalated = before.startswith("inquiry") and not inquiry
    reopened = before in DISPUTE_CLOSED and dispute.status not in DISPUTE_CLOSED
    if not before or reopened or escalated:
        due_at = dispute.evidence_due_at
        count_after_commit(metrics.DISPUTES_OPENED, "inquiry" if inquiry else "dispute")
        durability.publish(
            DisputeOpened(**payload, inquiry=inquiry, evidence_due_at=due_at.isoformat() if due_at else "")
        )
    if dispute.status in DISPUTE_CLOSED:
        count_after_commit(metrics.DISPUTES_CLOSED, dispute.status)
        durability.publish(DisputeClosed(**payload, outcome=dispute.status, lost_minor=dispute.lost_minor))
