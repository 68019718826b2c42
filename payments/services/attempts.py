"""A payment attempt: recorded before it is sent, opened under its own number, cancelled at the provider before here."""

import json
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Now

from durability import services as durability
from durability.types import Accepted, Outcome, Refused, Succeeded, Unknown
from foundation import documents
from foundation.database import database_now, in_seconds
from foundation.ids import public_id, uuid7
from foundation.money import check_step
from foundation.transition import transition, transition_many
from payments import gateway, metrics, selectors
from payments.errors import (
    PaymentInProgress,
    ProviderBusy,
    ProviderRefused,
    ProviderUnsure,
    StoreCreditExceedsTotal,
)
from payments.events import PaymentCancelled
from payments.locks import lock_payment
from payments.metrics import count_after_commit
from payments.models import Payment, PaymentHistory
from payments.services.about import about
from payments.services.contradictions import NOBODY_CAN_PAY
from payments.services.payment_news import apply_intent, cancel, fail
from payments.services.tries import CANCEL, LOOK_UP, READ, SEND, LostTrack, asking, lost_track, need_person
from payments.states import PAYMENT_EDGES, PAYMENT_LIVE, PaymentStatus
from payments.types import Failure, Intent, PaymentView, PlannedPayment

# The secret of the intent that this very request opened, for its own answer: memory only, this thread only.
_fresh_secret: ContextVar[tuple[str, str]] = ContextVar("fresh_secret", default=("", ""))


def begin_payment(
    *,
    merchant_id: UUID,
    reference: str,
    customer: str,
    amount_minor: int,
    currency: str,
    method: str,
    payment_method: str = "",
    confirm: bool = False,
    credit_minor: int = 0,
    number: str = "",
) -> str:
    """Record an attempt in the caller's transaction and return its number; nothing is sent yet.

    Of the amount, `credit_minor` is to come from the customer's store credit: `take_credit` follows in the same
    transaction. Raises StoreCreditExceedsTotal, PaymentInProgress while another attempt for the reference is live, and
    InvalidInput where the provider cannot charge the rest (1.234 KWD).
    """
    planned = plan_payment(
        merchant_id=merchant_id,
        reference=reference,
        customer=customer,
        amount_minor=amount_minor,
        currency=currency,
        method=method,
        payment_method=payment_method,
        confirm=confirm,
        credit_minor=credit_minor,
        number=number,
        at=database_now(),
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT payments_begin_payment(%s::jsonb)", [json.dumps(planned.record)])
        (is_recorded,) = cursor.fetchone()
    if not is_recorded:
        raise PaymentInProgress
    documents.forget_after_commit(reference)
    return planned.number


def plan_payment(
    *,
    merchant_id: UUID,
    reference: str,
    customer: str,
    amount_minor: int,
    currency: str,
    method: str,
    payment_method: str = "",
    confirm: bool = False,
    credit_minor: int = 0,
    number: str = "",
    at: datetime,
) -> PlannedPayment:
    """An attempt as the SQL function `payments_begin_payment` takes it, for a statement of an app above that records it
    together with its own rows. Nothing is written here. It is dated `at`, by PostgreSQL's clock.

    Raises StoreCreditExceedsTotal and InvalidInput as `begin_payment` does.
    """
    if credit_minor > amount_minor:
        raise StoreCreditExceedsTotal(param="store_credit")
    check_step(amount_minor - credit_minor, currency)
    payment_id = Payment.id_of(number) if number else uuid7()
    number = number or public_id(Payment.PREFIX, payment_id)
    record = {
        "id": str(payment_id),
        "merchant_id": str(merchant_id),
        "reference": reference,
        "customer": customer,
        "amount_minor": amount_minor - credit_minor,
        "currency": currency,
        "credit_minor": credit_minor,
        "method": "store_credit" if credit_minor == amount_minor else method,
        "payment_method": payment_method,
        "confirm": confirm,
    }
    planned = Payment(**record | {"id": payment_id, "merchant_id": merchant_id, "created_at": at})
    return PlannedPayment(number, record | {"created_at": at.isoformat()}, selectors.view(planned))


def open_at_provider(number: str) -> Outcome:
    """Open the attempt at the provider: the same number and parameters each time. Belongs outside of transactions.

    Answers Succeeded(Intent), Refused, or Unknown. A confirmation of ours that was declined is Succeeded with an
    intent that carries a failure and is cancelled: before we say `failed`, nobody can confirm it any more.
    """
    payment = Payment.objects.get(pk=Payment.id_of(number))
    if payment.status not in PAYMENT_LIVE:
        return Accepted()  # expiry or a cancellation was faster
    try:
        intent = _open(payment)
        if intent is None:
            return Accepted()  # nothing was sent, and nothing will be
        if payment.confirm and intent.failure and intent.status == "requires_payment_method":
            intent = _cancel_declined(intent)
    except LostTrack as lost:
        _leave_to_a_person(payment, str(lost))
        return Accepted()  # looked up now and then from here on; never sent again
    except ProviderRefused as refusal:
        return Refused(refusal.code, refusal.message)
    except (ProviderUnsure, ProviderBusy) as doubt:
        return Unknown(str(doubt))
    _fresh_secret.set((number, intent.client_secret))
    return Succeeded(intent)


def _open(payment: Payment) -> Intent | None:
    number = payment.number
    if payment.provider_reference:
        with asking(number, READ):
            return gateway.retrieve_intent(payment.provider_reference)
    if payment.first_sent_at is None and not _mark_sent(payment):
        return None
    sent_at = payment.first_sent_at
    if sent_at is None:
        return _send(payment)
    # Sent before, and we never learnt the answer: perhaps nobody lived to write it down. While the provider knows our key,
    # sending again is the shortest way to what became of it; looking it up reads every payment of that time.
    passed = database_now() - sent_at
    if passed > timedelta(seconds=settings.PROVIDER_KEY_SAFE_FOR_S):
        found = _look_up(payment)
        if found is None:
            raise lost_track(number)
        return found
    Payment.objects.filter(pk=payment.pk).update(last_sent_at=Now())
    try:
        answer = _send(payment)
    except ProviderUnsure as doubt:
        if not doubt.final:
            raise
        payment.refresh_from_db(fields=["last_sent_at"])
        # A 500 is replayed for ever, whatever the first try, or this very one, has made.
        found = _look_up(payment)
        if found is None:
            if passed <= timedelta(seconds=settings.PROVIDER_LOOKUP_GRACE_S):
                raise
            raise ProviderRefused("provider_error", "The provider failed to open the payment.") from doubt
        return found
    with asking(number, READ):
        return gateway.retrieve_intent(answer.id)  # a replayed answer is as old as the first try


def _send(payment: Payment) -> Intent:
    with asking(payment.number, SEND):
        return gateway.create_intent(
            number=payment.number,
            amount_minor=payment.amount_minor,
            currency=payment.currency,
            metadata=metadata(payment),
            payment_method=payment.payment_method,
            confirm=payment.confirm,
        )


def _look_up(payment: Payment) -> Intent | None:
    """What the provider made of a payment that was sent, by our number."""
    assert payment.first_sent_at is not None
    with asking(payment.number, LOOK_UP):
        return gateway.find_intent(payment.number, since=payment.first_sent_at, until=payment.last_sent_at)


def _leave_to_a_person(payment: Payment, why: str) -> None:
    with transaction.atomic(durable=True):
        payment = lock_payment(payment.pk)
        if payment.status == PaymentStatus.PENDING and not payment.provider_reference:
            _to_unknown(payment, why)
        if payment.status == PaymentStatus.UNKNOWN:
            need_person(payment, why)


def _to_unknown(payment: Payment, why: str) -> None:
    transition(payment, PaymentStatus.UNKNOWN, edges=PAYMENT_EDGES, history=PaymentHistory, by="opening", why=why)
    count_after_commit(metrics.PAYMENT_REQUESTS, "unknown")


def _mark_sent(payment: Payment) -> bool:
    """Commit the moment of the first send. False if a cancellation was faster: then nothing may be sent."""
    return bool(
        Payment.objects.filter(pk=payment.pk, status__in=PAYMENT_LIVE, first_sent_at__isnull=True).update(
            first_sent_at=Now(), last_sent_at=Now(), next_check_at=in_seconds(settings.PAYMENT_RECHECK_FIRST_S)
        )
        or Payment.objects.filter(pk=payment.pk, status__in=PAYMENT_LIVE, first_sent_at__isnull=False).exists()
    )


def _cancel_declined(intent: Intent) -> Intent:
    try:
        return gateway.cancel_intent(intent.id)
    except ProviderRefused:
        return gateway.retrieve_intent(intent.id)


def record_opening(number: str, outcome: Outcome) -> None:
    """Commit what opening ended in, in the caller's transaction."""
    payment = lock_payment(Payment.id_of(number))
    match outcome:
        case Succeeded(value=intent):
            apply_intent(payment, intent, by="opening")
        case Refused(code=code, message=message):
            if payment.status in PAYMENT_LIVE:
                fail(payment, Failure(code, "", message), by="opening")
        case Unknown(reason=reason):
            if payment.status == PaymentStatus.PENDING and not payment.provider_reference:
                _to_unknown(payment, reason)
        case Accepted():
            pass


def client_secret(number: str) -> str:
    """The secret that the customer's browser confirms with: fresh from this request's own call, or read again."""
    opened, secret = _fresh_secret.get()
    _fresh_secret.set(("", ""))
    return secret if opened == number and secret else selectors.read_client_secret(number)


def cancel_at_provider(number: str) -> Outcome:
    """Make sure that nobody can pay this attempt any more. Belongs outside of transactions.

    Succeeded(Intent): it is cancelled, or was paid before we came: the intent says which. Succeeded(None): the
    provider knows nothing of it. Accepted(Intent): it is being processed, nothing can be done now. Accepted(None): it
    was not sent. Unknown: ask again.
    """
    payment = Payment.objects.get(pk=Payment.id_of(number))
    try:
        reference = payment.provider_reference
        if payment.first_sent_at is None:
            return Accepted(None)  # nothing to cancel, unless somebody sends it before this is recorded
        if not reference:
            found = _look_up(payment)
            if found is None:
                waited = database_now() - payment.first_sent_at
                if waited < timedelta(seconds=settings.PROVIDER_LOOKUP_GRACE_S):
                    return Unknown("sent, but not yet to be found at the provider")
                return Succeeded(None)
            reference = found.id
        with asking(number, CANCEL):
            intent = _cancel_or_read(reference)
    except ProviderRefused as refusal:
        if refusal.code == "resource_missing":
            return Succeeded(None)  # what the provider does not know, nobody can pay
        return Refused(refusal.code, refusal.message)
    except (ProviderUnsure, ProviderBusy) as doubt:
        return Unknown(str(doubt))
    return Accepted(intent) if intent.status == "processing" else Succeeded(intent)


def close_intent(number: str) -> Outcome:
    """Cancel the intent of an attempt that ended here before the provider opened it. Belongs outside of transactions.

    Unknown until nobody can pay it any more: one that is being processed may still come back to its customer.
    """
    outcome = cancel_at_provider(number)
    match outcome:
        case Accepted(value=Intent()):
            return Unknown("it is being processed")
        case Succeeded(value=Intent(status=status)) if status not in NOBODY_CAN_PAY:
            return Unknown(f"it is {status} still: it came back to its customer")
        case Refused(message=message):
            return Unknown(message)
    return outcome


def _cancel_or_read(reference: str) -> Intent:
    try:
        return gateway.cancel_intent(reference)
    except ProviderRefused:
        return gateway.retrieve_intent(reference)


def record_cancelling(number: str, outcome: Outcome, *, by: str) -> PaymentView:
    """Commit what cancelling ended in, in the caller's transaction, and answer with the payment as it now stands."""
    payment = lock_payment(Payment.id_of(number))
    if isinstance(outcome, Succeeded | Accepted) and outcome.value is not None:
        applied = apply_intent(payment, outcome.value, by=by)
        if not applied and payment.status in PAYMENT_LIVE and outcome.value.status == "succeeded":
            # What was taken contradicts us and pays for nothing; nobody can pay this attempt any more.
            cancel(payment, by=by, why="what the provider took contradicts it: a discrepancy is open")
    elif payment.status in PAYMENT_LIVE:
        unsent = isinstance(outcome, Accepted) and payment.first_sent_at is None
        if unsent or isinstance(outcome, Succeeded):
            cancel(payment, by=by, why="never reached the provider")
    return selectors.view(payment)


def cancel_never_sent(*, references: Sequence[tuple[UUID, str]], by: str) -> set[str]:
    """Cancel, set-wise in the caller's transaction, the attempts that never reached the provider.

    `references` come with their merchants. Returns those that nobody has paid or can pay any more; the others were sent
    and need `cancel_at_provider`, or are paid. Who holds store credit is among the others: accounts are locked after
    stock, and the caller has yet to release that.
    """
    names = [name for _, name in references]
    asked = {"merchants": [merchant for merchant, _ in references], "references": names, "live": list(PAYMENT_LIVE)}
    payable = list(Payment.objects.raw(_LOCK_PAYABLE, asked))
    documents.forget_after_commit(*names, *(payment.number for payment in payable))
    unsent = [
        one
        for one in payable
        if one.status == PaymentStatus.PENDING and one.first_sent_at is None and not one.credit_minor
    ]
    transition_many(
        Payment,
        [payment.pk for payment in unsent],
        before=PaymentStatus.PENDING,
        to=PaymentStatus.CANCELLED,
        edges=PAYMENT_EDGES,
        history=PaymentHistory,
        by=by,
        why="never reached the provider",
        values={"next_check_at": None},
    )
    durability.publish_many([PaymentCancelled(**about(payment)) for payment in unsent])
    return set(names) - {payment.reference for payment in payable} | {payment.reference for payment in unsent}


# The one who sends (`_mark_sent`) asks in its UPDATE whether the attempt is still live: either it waits for this lock
# and then sends nothing, or this waits for it and then finds the attempt sent.
_LOCK_PAYABLE = """
SELECT payment.id, payment.merchant_id, payment.reference, payment.amount_minor, payment.currency,
       payment.credit_minor, payment.provider_reference, payment.status, payment.first_sent_at
FROM payments_payment payment
JOIN unnest(%(merchants)s::uuid[], %(references)s::text[]) AS asked (merchant_id, reference)
     USING (merchant_id, reference)
WHERE payment.status = ANY(%(live)s) OR payment.settling
ORDER BY payment.id
FOR NO KEY UPDATE OF payment
"""


def metadata(payment: Payment) -> dict[str, str]:
    """What the provider keeps beside an intent, so that any charge can be traced back to us."""
    return {
        "payment": payment.number,
        "order": payment.reference,
        "merchant": str(payment.merchant_id),
        "instance": settings.INSTANCE_ID,
    }
