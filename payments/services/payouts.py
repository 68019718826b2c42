"""What the provider says of a payout to our bank: recorded with the transactions that it pays out, posted once.

Any order, any number of times, as a dispute (`services.disputes`).
"""

import logging
from datetime import timedelta
from itertools import islice
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Sum
from django.db.models.functions import Now

from durability import services as durability
from foundation.database import database_now, in_seconds
from foundation.transition import transition
from payments import gateway, ledger, metrics
from payments.errors import ProviderBusy
from payments.events import PayoutFailed, PayoutPaid
from payments.metrics import count_after_commit
from payments.models import Payout, PayoutHistory, PayoutTransaction
from payments.states import PAYOUT_EDGES, PayoutStatus
from payments.types import ProviderPayout

log = logging.getLogger(__name__)

_STATES = {
    "pending": PayoutStatus.PENDING,
    "in_transit": PayoutStatus.IN_TRANSIT,
    "paid": PayoutStatus.PAID,
    "failed": PayoutStatus.FAILED,
    "canceled": PayoutStatus.CANCELLED,
}
_TRIES = 5
_BATCH = 500  # transactions written at once


def sync_payout(reference: str, *, by: str) -> bool:
    """Read a payout, apply it to ours, and store its transactions once they can be listed. Always True.

    Belongs outside of transactions. Raises ProviderUnsure, ProviderBusy, ProviderRefused.
    """
    for _ in range(_TRIES):
        seen = _readings(reference)
        news = gateway.retrieve_payout(reference)
        payout = _applied(news, seen=seen, by=by)
        if payout is not None:
            if news.listable and payout.listed_at is None:
                _store_transactions(payout)
            return True
    raise ProviderBusy(f"{reference} is read by others all the time")


def _readings(reference: str) -> int:
    known = Payout.objects.filter(provider_reference=reference).values_list("readings", flat=True).first()
    return known or 0


@transaction.atomic(durable=True)
def _applied(news: ProviderPayout, *, seen: int, by: str) -> Payout | None:
    """The payout as the provider has it; None if `news` may be older than what we know."""
    payout = Payout.objects.select_for_update().filter(provider_reference=news.id).first()
    if (payout.readings if payout else 0) != seen:
        return None
    to = _STATES[news.status]
    before = payout.status if payout else ""
    if payout is None:
        payout = _recorded(news, to, by=by)
        if payout is None:
            return None
    values: dict[str, Any] = {
        "failure_code": news.failure_code,
        "failure_message": news.failure_message,
        "arrives_on": news.arrives_on,
        "trace_id": news.trace_id[:255] or payout.trace_id,
        "readings": payout.readings + 1,
        "next_check_at": _next_check(payout),
    }
    if before and before != to:
        transition(payout, to, edges=PAYOUT_EDGES, history=PayoutHistory, by=by, values=values)
    else:
        Payout.objects.filter(pk=payout.pk).update(**values)
        for name, value in values.items():
            setattr(payout, name, value)
    if before != to:
        _post(payout, by=by)
    return payout


def _recorded(news: ProviderPayout, status: str, *, by: str) -> Payout | None:
    try:
        with transaction.atomic():
            payout = Payout.objects.create(
                provider_reference=news.id,
                status=status,
                amount_minor=news.amount_minor,
                currency=news.currency,
                automatic=news.automatic,
                arrives_on=news.arrives_on,
                provider_created_at=news.created_at,
            )
    except IntegrityError:
        return None  # another worker was first
    PayoutHistory.objects.create(subject=payout, from_state="", to_state=status, by=by)
    return payout


def _next_check(payout: Payout) -> Any:
    """A payout that was paid can still come back: it is read again for a while."""
    if database_now() - payout.provider_created_at > timedelta(days=settings.PAYMENT_RECHECK_CLOSED_FOR_DAYS):
        return None
    return payout.next_check_at or in_seconds(settings.PAYMENT_RECHECK_LONGEST_S)


def _store_transactions(payout: Payout) -> None:
    """List what a payout pays out and store it, batch by batch; what is there already stays."""
    rows = gateway.list_payout_transactions(payout.provider_reference)
    while batch := list(islice(rows, _BATCH)):
        PayoutTransaction.objects.bulk_create(
            [
                PayoutTransaction(
                    id=row.id,
                    payout=payout,
                    type=row.type,
                    reporting_category=row.reporting_category,
                    source=row.source,
                    amount_minor=row.amount_minor,
                    fee_minor=row.fee_minor,
                    net_minor=row.net_minor,
                    currency=row.currency,
                    booked_at=row.created_at,
                )
                for row in batch
            ],
            ignore_conflicts=True,
        )
    rest = PayoutTransaction.objects.filter(payout=payout).aggregate(net=Sum("net_minor"))["net"] or 0
    if rest:  # its own row is among them, so they add up to nothing; the page shows both sums
        log.error("payout %s: its transactions are %s %s off", payout.number, rest, payout.currency)
    Payout.objects.filter(pk=payout.pk).update(listed_at=Now())


def _post(payout: Payout, *, by: str) -> None:
    """What reached the bank, and what came back from there."""
    about: dict[str, Any] = {
        "payout": payout.number,
        "amount_minor": payout.amount_minor,
        "currency": payout.currency,
        "provider_reference": payout.provider_reference,
        "arrives_on": payout.arrives_on.isoformat(),
    }
    bank, clearing = ledger.bank(payout.currency), ledger.clearing(payout.currency)
    paid_key = f"payout:{payout.number}"
    common: dict[str, Any] = {
        "amount_minor": payout.amount_minor,
        "by": by,
        "subject": payout.number,
        "memo": payout.provider_reference,
    }
    if payout.status == PayoutStatus.PAID:
        ledger.post(key=paid_key, kind="payout", debit=bank, credit=clearing, **common)
        count_after_commit(metrics.PAYOUTS, "paid")
        durability.publish(PayoutPaid(**about))
    elif payout.status == PayoutStatus.FAILED:
        if ledger.was_posted(paid_key):
            key = f"payout_failed:{payout.number}"
            ledger.post(key=key, kind="payout_failed", debit=clearing, credit=bank, **common)
        count_after_commit(metrics.PAYOUTS, "failed")
        durability.publish(PayoutFailed(**about, code=payout.failure_code))
