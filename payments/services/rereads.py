"""Reading again at the provider: after an event, on a schedule, or because a person asks. A webhook is only a hint."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet
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
from payments.services.tries import LOOK_UP, NOTHING_LISTED, READ, asking, need_person, note_try
from payments.states import PAYMENT_LIVE, REFUND_OPEN, PaymentStatus
from payments.types import ProviderRefund, Rechecked

log = logging.getLogger(__name__)

DISPUTES = ("dp_", "du_")  # the provider has used both
Row = TypeVar("Row", Payment, Refund)
_BATCH = 200  # rows read from our table at once

# Families of events whose objects are read. All others are stored, and counted as unknown.
HANDLED_EVENTS = ("payment_intent.", "charge.", "refund.", "payout.")


def is_handled(event_type: str) -> bool:
    """Whether news of this type lead to a read at the provider."""
    return event_type.startswith(HANDLED_EVENTS)


def sync_provider_object(*, event_type: str, object_id: str, intent_id: str) -> None:
    """Read what an event told of, and apply it. Objects that are not ours are left to reconciliation."""
    if not is_handled(event_type):
        return
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


def _payment_of(intent: Any) -> Any:
    known = Payment.objects.filter(provider_reference=intent.id).values_list("pk", flat=True).first()
    if known or intent.metadata.get("instance") != settings.INSTANCE_ID:
        return known
    try:  # opened by us, but the answer never reached us; where another intent has our number, a contradiction
        number = Payment.id_of(intent.metadata.get("payment", ""))
    except NotFound:
        return None
    return Payment.objects.filter(pk=number).values_list("pk", flat=True).first()


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
    # Where another refund has our number, a contradiction.
    return Refund.objects.filter(pk=refund_id).values_list("pk", flat=True).first()


# --- One payment or refund, whatever is known of it --------------------------------------------------


def read_payment(payment: Payment, *, by: str) -> bool:
    """Read a payment that was sent: by its intent, or by our number where the answer was lost. False if nothing came of it.

    Belongs outside of transactions. Raises ProviderUnsure, ProviderBusy, ProviderRefused.
    """
    if payment.provider_reference:
        with asking(payment.number, READ):
            return sync_payment(payment.provider_reference, by=by)
    if payment.first_sent_at is None:
        return False
    with asking(payment.number, LOOK_UP):
        found = gateway.find_intent(payment.number, since=payment.first_sent_at, until=payment.last_sent_at)
    if found is None:
        note_try(payment.number, LOOK_UP, NOTHING_LISTED)
        return False
    with transaction.atomic(durable=True):
        return apply_intent(lock_payment(payment.pk), found, by=by)


def read_refund(refund: Refund, *, by: str) -> bool:
    """The same for a refund."""
    if refund.provider_reference:
        with asking(refund.number, READ):
            return sync_refund(refund.provider_reference, by=by)
    if refund.first_sent_at is None:
        return False
    with asking(refund.number, LOOK_UP):
        found = gateway.find_refund(refund.number, payment_intent=refund.payment.provider_reference or "")
    if found is None:
        note_try(refund.number, LOOK_UP, NOTHING_LISTED)
        return False
    with transaction.atomic(durable=True):
        apply_refund(*lock_refund(refund.pk), found, by=by)
    return True


# --- On a schedule ----------------------------------------------------------------------------------

# An attempt whose opening is still being worked on is the saga's; what the saga has given up is looked up here.
_KNOWN = Q(provider_reference__isnull=False) | Q(person_needed_at__isnull=False)


def recheck_due() -> int:
    """Read again, at the provider, what has been open for longer than news usually take; then what has ended, for
    PAYMENT_RECHECK_CLOSED_FOR_DAYS. A bounded number each time. Returns how many were read.

    After WORK_FOR_S nothing more is asked: a provider that hangs holds a worker for one call longer, not for hundreds.
    What is left is due again at once; payments leave half of the time to all others.
    """
    begun = time.monotonic()
    halfway, end = begun + settings.WORK_FOR_S / 2, begun + settings.WORK_FOR_S
    batch = settings.SETTLED_RECHECK_BATCH
    checked = _recheck_batch(Payment.objects.filter(_KNOWN, status__in=PAYMENT_LIVE), _open_pause_s, halfway)
    checked += _recheck_batch(Refund.objects.filter(_KNOWN, status__in=REFUND_OPEN), _open_pause_s, end)
    checked += _recheck_batch(Dispute.objects.all(), _open_pause_s, end)
    checked += _recheck_batch(Payout.objects.all(), _open_pause_s, end)
    ended = Payment.objects.filter(provider_reference__isnull=False).exclude(status__in=PAYMENT_LIVE)
    pause_s = _settled_pause_s(settings.PAYMENT_SETTLED_RECHECK_FACTOR)
    checked += _recheck_batch(ended, pause_s, end, batch=batch)
    ended_refunds = Refund.objects.filter(provider_reference__isnull=False).exclude(status__in=REFUND_OPEN)
    pause_s = _settled_pause_s(settings.REFUND_SETTLED_RECHECK_FACTOR)
    checked += _recheck_batch(ended_refunds, pause_s, end, batch=batch)
    return checked


def _recheck_batch(rows: Any, pause_s: Callable[[int], float | None], until: float, *, batch: int = 0) -> int:
    if time.monotonic() > until:
        return 0
    checked = 0
    for row in _due(rows, pause_s, batch=batch):
        if time.monotonic() > until:
            # Put back as it was, unless news have settled it meanwhile.
            untouched = type(row).objects.filter(pk=row.pk, checks=row.checks + 1)
            untouched.update(next_check_at=row.next_check_at, checks=row.checks)
        else:
            checked += _recheck(row)
    return checked


def recheck_open(*, tell: Callable[[int], None]) -> Rechecked:
    """Read everything that is open at the provider now, whenever its next check would be due; tell how far it is.

    Belongs outside of transactions. What the provider does not answer for is counted, and the rest goes on.
    """
    done = Rechecked()
    for row in _all_open():
        done.asked += 1
        done.answered += _recheck(row)
        tell(done.asked)
    done.needs_person = sum(model.objects.filter(person_needed_at__isnull=False).count() for model in (Payment, Refund))
    return done


def open_count() -> int:
    """How many payments and refunds `recheck_open` would read."""
    return sum(rows.count() for rows in _open_rows())


def _open_rows() -> tuple[QuerySet[Payment], QuerySet[Refund]]:
    return (
        Payment.objects.filter(status__in=PAYMENT_LIVE, first_sent_at__isnull=False),
        Refund.objects.select_related("payment").filter(status__in=REFUND_OPEN, first_sent_at__isnull=False),
    )


def _all_open() -> Iterator[Payment | Refund]:
    payments, refunds = _open_rows()
    yield from _in_batches(payments)
    yield from _in_batches(refunds)


def _in_batches(rows: QuerySet[Row]) -> Iterator[Row]:
    last = None
    while batch := list((rows.filter(pk__gt=last) if last else rows).order_by("pk")[:_BATCH]):
        yield from batch
        last = batch[-1].pk


def _open_pause_s(checks: int) -> float:
    return float(min(settings.PAYMENT_RECHECK_LONGEST_S, settings.PAYMENT_RECHECK_FIRST_S * 2 ** min(checks, 20)))


def _settled_pause_s(factor: int) -> Callable[[int], float | None]:
    """The pause after the n-th read of what has ended, each `factor` times the one before; None when its days are over."""

    def pause_s(checks: int) -> float | None:
        passed = sum(settings.SETTLED_RECHECK_FIRST_S * factor**n for n in range(min(checks, 20) + 1))
        next_s = settings.SETTLED_RECHECK_FIRST_S * factor ** (min(checks, 20) + 1)
        return float(next_s) if passed + next_s <= settings.PAYMENT_RECHECK_CLOSED_FOR_DAYS * 86_400 else None

    return pause_s


def _due(rows: Any, pause_s: Callable[[int], float | None], *, batch: int = 0) -> list[Any]:
    """Take a batch of due rows, and put their next check off first: a process that dies here loops on nothing."""
    with transaction.atomic(durable=True):
        due = list(
            rows.select_for_update(skip_locked=True)
            .filter(next_check_at__lte=Now())
            .order_by("next_check_at")[: batch or settings.PAYMENT_RECHECK_BATCH]
        )
        for row in due:
            pause = pause_s(row.checks)
            type(row).objects.filter(pk=row.pk).update(
                next_check_at=None if pause is None else in_seconds(pause), checks=F("checks") + 1
            )
    return due


def _recheck(row: Payment | Refund | Dispute | Payout) -> int:
    """1 if the provider answered."""
    try:
        match row:
            case Payment():
                read_payment(row, by="re-check")
            case Refund():
                read_refund(row, by="re-check")
            case Dispute():
                disputes.sync_dispute(row.provider_reference, by="re-check")
            case Payout():
                payouts.sync_payout(row.provider_reference, by="re-check")
    except (ProviderUnsure, ProviderBusy) as doubt:
        log.warning("re-check of %s: %s", row.number, doubt)
        return 0
    except ProviderRefused as refusal:
        log.warning("re-check of %s: %s", row.number, refusal)
        if refusal.code == "resource_missing" and isinstance(row, Payment | Refund):
            need_person(row, f"the provider does not know {row.provider_reference} any more")
    return 1


def unavailable(error: Exception) -> ProviderUnavailable:
    return ProviderUnavailable(f"The payment provider does not answer ({error}): try again in a moment.")
