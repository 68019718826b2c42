"""The refund saga's steps: asked for at the provider under our own number, recorded, posted; or given up."""

import logging
from datetime import timedelta

from django.conf import settings
from django.db.models.functions import Now

from durability.types import Accepted, Outcome, Refused, Succeeded, Unknown
from foundation.database import database_now, in_seconds
from foundation.errors import DomainError
from foundation.transition import transition
from payments import gateway
from payments.errors import PaymentDisputed, ProviderBusy, ProviderRefused, ProviderUnsure, RefundExceedsCaptured
from payments.locks import lock_refund
from payments.models import Payment, Refund, RefundHistory
from payments.services import credit
from payments.services.refund_books import post_refund_paid
from payments.services.refund_news import apply_refund, refund_failed, refund_succeeded
from payments.services.tries import LOOK_UP, READ, SEND, LostTrack, asking, lost_track, need_person
from payments.states import REFUND_EDGES, REFUND_OPEN, RefundStatus
from payments.types import ProviderRefund

log = logging.getLogger(__name__)


def release_refundable(number: str, *, by: str) -> None:
    """Undo the hold of a refund that will not happen. Does nothing for one that the provider has told us of."""
    refund, payment = lock_refund(Refund.id_of(number))
    if refund.status == RefundStatus.PROCESSING:
        transition(
            refund,
            RefundStatus.FAILED,
            edges=REFUND_EDGES,
            history=RefundHistory,
            by=by,
            why=refund.failure_message,
            values={"completed_at": Now(), "next_check_at": None},
        )
        refund_failed(refund, payment, late=False, by=by)


def refund_at_provider(number: str) -> Outcome:
    """Ask the provider for the refund: the same number each time. Belongs outside of transactions."""
    refund = Refund.objects.select_related("payment").get(pk=Refund.id_of(number))
    if refund.status not in REFUND_OPEN:
        return Accepted()  # a person ended it, or news were faster
    if not refund.amount_minor:
        return Succeeded()  # it goes back as store credit alone
    try:
        return Succeeded(_send(refund))
    except LostTrack as lost:
        need_person(refund, str(lost))
        return Accepted()  # looked up now and then from here on; never sent again
    except ProviderRefused as refusal:
        return Refused(refusal.code, refusal.message)
    except (ProviderUnsure, ProviderBusy) as doubt:
        return Unknown(str(doubt))


def _send(refund: Refund) -> ProviderRefund:
    if refund.provider_reference:
        with asking(refund.number, READ):
            return gateway.retrieve_refund(refund.provider_reference)
    intent = refund.payment.provider_reference or ""
    if refund.first_sent_at:  # sent before, and we never learnt the answer
        with asking(refund.number, LOOK_UP):
            found = gateway.find_refund(refund.number, payment_intent=intent)
        if found:
            return found
        if database_now() - refund.first_sent_at > timedelta(seconds=settings.PROVIDER_KEY_SAFE_FOR_S):
            raise lost_track(refund.number)
        _require_undisputed(refund)
    else:
        _require_undisputed(refund)
        Refund.objects.filter(pk=refund.pk).update(
            first_sent_at=Now(), next_check_at=in_seconds(settings.PAYMENT_RECHECK_FIRST_S)
        )
    try:
        with asking(refund.number, SEND):
            return gateway.create_refund(
                number=refund.number,
                payment_intent=intent,
                amount_minor=refund.amount_minor,
                metadata={
                    "refund": refund.number,
                    "payment": refund.payment.number,
                    "order": refund.payment.reference,
                    "merchant": str(refund.merchant_id),
                    "instance": settings.INSTANCE_ID,
                },
            )
    except ProviderUnsure as doubt:
        sent_at = refund.first_sent_at
        grace = timedelta(seconds=settings.PROVIDER_LOOKUP_GRACE_S)
        if not (doubt.final and sent_at and database_now() - sent_at > grace):
            raise
        found = gateway.find_refund(refund.number, payment_intent=intent)  # this very try may have made it
        if found is None:
            # The provider replays its 500 for ever, and lists no such refund: it was never made.
            raise ProviderRefused("provider_error", "The provider failed to make the refund.") from doubt
        return found


def _require_undisputed(refund: Refund) -> None:
    """Raises ProviderRefused where the customer's bank pays, or has paid, since the refund was asked for.

    One that was sent before and is not to be found may only not be found yet: then ProviderUnsure, for a while.
    """
    payment, sent_at = refund.payment, refund.first_sent_at
    if payment.disputed_at:
        refusal: DomainError = PaymentDisputed()
    elif payment.disputed_lost_minor and credit.refundable_in_all_minor(payment) < 0:
        refusal = RefundExceedsCaptured("A lost dispute took what was to be refunded.")
    else:
        return
    if sent_at and database_now() - sent_at < timedelta(seconds=settings.PROVIDER_LOOKUP_GRACE_S):
        raise ProviderUnsure("sent, but not yet to be found; its payment is disputed meanwhile")
    raise ProviderRefused(refusal.code, refusal.detail)


def record_refund(number: str, outcome: Outcome) -> None:
    """Commit what the provider answered, in the caller's transaction."""
    refund, payment = lock_refund(Refund.id_of(number))
    match outcome:
        case Succeeded(value=None):
            _give_as_credit(refund, payment)
        case Succeeded(value=news):
            apply_refund(refund, payment, news, by="refund")
        case Refused(code=code, message=message):
            Refund.objects.filter(pk=refund.pk).update(failure_code=code, failure_message=message)
        case Unknown() | Accepted():
            pass


def _give_as_credit(refund: Refund, payment: Payment) -> None:
    if refund.status == RefundStatus.PROCESSING:
        values = {"completed_at": Now(), "next_check_at": None}
        transition(
            refund, RefundStatus.SUCCEEDED, edges=REFUND_EDGES, history=RefundHistory, by="refund", values=values
        )
        refund_succeeded(refund, payment, by="refund")


def post_refund(number: str, *, by: str) -> None:
    """See the refund's posting through. A refund that the bank still works on is posted when its news arrive."""
    refund, payment = lock_refund(Refund.id_of(number))
    if refund.status == RefundStatus.SUCCEEDED:
        post_refund_paid(refund, payment, by=by)
    elif refund.status == RefundStatus.PROCESSING and not refund.provider_reference:
        # Whoever skipped the sending knows why; its amount stays held until somebody says what became of it.
        need_person(refund, "nobody heard from the provider whether it was made, and it is not asked again")


def flag_refund(number: str, *, by: str) -> None:
    """The provider paid, and our books could not follow: leave a mark that reconciliation and operators see."""
    log.error("refund %s was paid, and could not be posted", number)
    refund = Refund.objects.get(pk=Refund.id_of(number))
    Refund.objects.filter(pk=refund.pk).update(failure_message=f"paid, but not posted ({by})")
    need_person(refund, "the provider paid it, and it could not be posted")
