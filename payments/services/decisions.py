"""What a person decides about a payment or refund that nobody else can settle. Each with a name and a reason."""

from django.db import transaction
from django.db.models.functions import Now

from foundation.errors import DomainError, IllegalTransition, InvalidInput
from foundation.transition import transition
from payments.errors import ProviderBusy, ProviderRefused, ProviderUnsure
from payments.locks import lock_payment, lock_refund
from payments.models import Payment, PaymentHistory, Refund, RefundHistory
from payments.services.payment_news import cancel
from payments.services.refund_news import refund_failed
from payments.services.rereads import read_payment, read_refund, unavailable
from payments.services.tries import need_nobody
from payments.states import PAYMENT_LIVE, REFUND_EDGES, REFUND_OPEN, RefundStatus


class NothingToDecide(DomainError):
    """This payment or refund needs no decision any more: look at how it stands now."""

    code = "nothing_to_decide"
    status = 409


def end_unanswered(number: str, *, by: str, why: str) -> str:
    """End a payment or refund that was sent, whose answer never came, and that the provider does not list.

    Asks the provider once more: what it knows is applied instead. Then the payment is cancelled, or the refund fails and
    its amount is free again. Belongs outside of transactions. Returns what came of it, a sentence. Raises NotFound,
    NothingToDecide, ProviderUnavailable.
    """
    _require(why)
    row = _row(number)
    if row.person_needed_at is None or not is_unanswered(row):
        raise NothingToDecide
    try:
        found = read_payment(row, by=by) if isinstance(row, Payment) else read_refund(row, by=by)
    except (ProviderUnsure, ProviderBusy, ProviderRefused) as error:
        raise unavailable(error) from error
    if found:
        return "The provider knows it after all: what it says now stands in our books."
    with transaction.atomic(durable=True):
        if isinstance(row, Payment):
            _end_payment(row, by=by, why=why)
        else:
            _end_refund(row, by=by, why=why)
    return "It has ended here: the provider never made it."


def _end_payment(payment: Payment, *, by: str, why: str) -> None:
    payment = lock_payment(payment.pk)
    if payment.status not in PAYMENT_LIVE or payment.provider_reference:
        raise NothingToDecide
    cancel(payment, by=by, why=why)


def _end_refund(refund: Refund, *, by: str, why: str) -> None:
    refund, payment = lock_refund(refund.pk)
    if refund.status not in REFUND_OPEN or refund.provider_reference:
        raise NothingToDecide
    ended = {"completed_at": Now(), "next_check_at": None, "person_needed_at": None, "person_needed_why": ""}
    transition(refund, RefundStatus.FAILED, edges=REFUND_EDGES, history=RefundHistory, by=by, why=why, values=ended)
    refund_failed(refund, payment, late=False, by=by)


def is_unanswered(row: Payment | Refund) -> bool:
    """Open, and the provider never said a word about it: it stays so until somebody ends it."""
    return not row.provider_reference and row.status in (*PAYMENT_LIVE, *REFUND_OPEN)


def settled_by_hand(number: str, *, by: str, why: str) -> None:
    """Take a payment or refund off the operators' list: what it needed was done elsewhere.

    Not one that nobody would look at any more, its amount held for ever: that one is ended. Raises NotFound,
    NothingToDecide, IllegalTransition.
    """
    _require(why)
    with transaction.atomic():
        if number.startswith(Refund.PREFIX):
            refund, _ = lock_refund(Refund.id_of(number))
            note: PaymentHistory | RefundHistory = RefundHistory(subject=refund)
        else:
            note = PaymentHistory(subject=lock_payment(Payment.id_of(number)))
        if note.subject.person_needed_at is None:
            raise NothingToDecide
        if is_unanswered(note.subject):
            raise IllegalTransition(f"{number} is {note.subject.status}, and the provider knows nothing of it: end it.")
        need_nobody(note.subject)
        note.from_state = note.to_state = note.subject.status
        note.by, note.why = by, f"settled by hand: {why}"
        note.save(force_insert=True)


def _row(number: str) -> Payment | Refund:
    """Raises NotFound."""
    if number.startswith(Refund.PREFIX):
        refunds = Refund.objects.select_related("payment")
        return _found(refunds.filter(pk=Refund.id_of(number)).first())
    return _found(Payment.objects.filter(pk=Payment.id_of(number)).first())


def _found(row: Payment | Refund | None) -> Payment | Refund:
    if row is None:
        raise NothingToDecide("There is no such payment or refund.")
    return row


def _require(why: str) -> None:
    if not why.strip():
        raise InvalidInput("Say why: the reason is kept.", param="note")
