"""What finance staff do to the books, each once per cause, with a name and a reason."""

from collections.abc import Sequence
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F
from django.db.models.functions import Now

from foundation.errors import InvalidInput, NotFound
from foundation.money import format_minor
from foundation.transition import transition
from payments import gateway, ledger, selectors
from payments.errors import (
    ContradictsProvider,
    PaymentNotRefundable,
    ProviderBusy,
    ProviderRefused,
    ProviderUnsure,
)
from payments.locks import lock_payment, lock_refund
from payments.models import Dispute, JournalEntry, Payment, PaymentHistory, Payout, Refund, RefundHistory
from payments.services.disputes import sync_dispute
from payments.services.payment_news import apply_intent, cancel
from payments.services.payouts import sync_payout
from payments.services.refund_books import refund_source
from payments.services.refund_news import refund_failed
from payments.services.refunds_elsewhere import record_elsewhere
from payments.services.rereads import read_payment, read_refund, sync_refund, unavailable
from payments.states import PAYMENT_LIVE, REFUND_EDGES, REFUND_OPEN, PaymentStatus, RefundStatus
from payments.types import PaymentView


def take_provider_status(number: str, *, by: str) -> None:
    """Read a payment (`pay_…`), refund (`ref_…`), dispute (`dsp_…`) or payout (`pot_…`) at the provider and take over
    what it says.

    Belongs outside of transactions. Raises NotFound, ProviderUnavailable, ContradictsProvider.
    """
    try:
        found = _sync(number, by=by)
    except (ProviderUnsure, ProviderBusy) as error:
        raise unavailable(error) from error
    except ProviderRefused as refusal:
        raise ContradictsProvider(f"The provider knows nothing of {number}: {refusal.message}") from refusal
    if not found:
        raise ContradictsProvider


def _sync(number: str, *, by: str) -> bool:
    if number.startswith(Dispute.PREFIX):
        dispute = Dispute.objects.filter(pk=Dispute.id_of(number)).first()
        if dispute is None:
            raise NotFound
        return sync_dispute(dispute.provider_reference, by=by)
    if number.startswith(Payout.PREFIX):
        payout = Payout.objects.filter(pk=Payout.id_of(number)).first()
        if payout is None:
            raise NotFound
        return sync_payout(payout.provider_reference, by=by)
    if number.startswith(Refund.PREFIX):
        refunds = Refund.objects.select_related("payment")
        refund = refunds.filter(pk=Refund.id_of(number), first_sent_at__isnull=False).first()
        if refund is None:
            raise NotFound(f"{number} never reached the provider.")
        return read_refund(refund, by=by)
    payment = Payment.objects.filter(pk=Payment.id_of(number), first_sent_at__isnull=False).first()
    if payment is None:
        raise NotFound(f"{number} never reached the provider.")
    return read_payment(payment, by=by)


def adopt_charge(
    *,
    charge: str,
    merchant_id: UUID,
    reference: str,
    customer: str,
    amount_minor: int,
    currency: str,
    by: str,
    why: str,
    instead_of: str = "",
    to_pay: bool = False,
) -> PaymentView:
    """Create the payment that we miss from the provider's charge, for a reference that a person or metadata chose.

    `amount_minor` is what the reference asks for: a charge of another amount belongs elsewhere. `instead_of` is our
    payment that this charge contradicts: it ends cancelled and gives up the intent, so that its money has one owner.
    `to_pay`: the reference is paid with it, so none of it may have gone back, or be disputed.
    Belongs outside of transactions. Done before: answers with what it made then. Raises ProviderUnavailable,
    ContradictsProvider.
    """
    known = selectors.find_by_provider_reference(charge)
    if known and known.number != instead_of:
        return known
    try:
        intent = gateway.retrieve_intent(gateway.retrieve_charge_intent(charge))
    except (ProviderUnsure, ProviderBusy) as error:
        raise unavailable(error) from error
    except ProviderRefused as refusal:
        raise ContradictsProvider(f"The provider knows nothing of {charge}: {refusal.message}") from refusal
    if intent.status != "succeeded" or intent.charge is None:
        raise ContradictsProvider(f"The provider says that {intent.id} is {intent.status}: there is nothing to adopt.")
    if intent.livemode != gateway.livemode():
        raise ContradictsProvider(
            f"{intent.id} belongs to the provider's other mode: live and test money are never mixed."
        )
    if (intent.amount_received_minor, intent.currency) != (amount_minor, currency):
        raise ContradictsProvider(
            f"The charge is {intent.amount_received_minor} {intent.currency}, {reference} asks for {amount_minor} "
            f"{currency}: it belongs to another order, or has to be refunded."
        )
    if to_pay and (intent.charge.refunded_minor or intent.charge.disputed):
        back = format_minor(intent.charge.refunded_minor, currency)
        raise ContradictsProvider(
            f"{charge} is disputed: it pays for nothing before that is settled."
            if intent.charge.disputed
            else f"{back} of {charge} went back already: it pays for nothing. Refund the customer: what is left goes back too."
        )
    try:
        with transaction.atomic(durable=True):
            if instead_of:
                _let_go(instead_of, by=by, why=why)
            payment = Payment.objects.create(
                merchant_id=merchant_id,
                reference=reference,
                customer=customer,
                status=PaymentStatus.CANCELLED,  # not a live attempt: on the provider's word it becomes succeeded
                amount_minor=intent.amount_received_minor,
                currency=intent.currency,
                first_sent_at=intent.created_at,
                provider_reference=intent.id,
            )
            PaymentHistory.objects.create(
                subject=payment, from_state="", to_state=PaymentStatus.CANCELLED, by=by, why=why
            )
            apply_intent(lock_payment(payment.pk), intent, by=by)
    except IntegrityError as error:
        raise ContradictsProvider(f"{intent.id} was adopted by someone else just now.") from error
    return selectors.get_payment(payment.number)


def _let_go(number: str, *, by: str, why: str) -> None:
    """A contradicted attempt that has not succeeded ends, and gives up its intent; in the caller's transaction.

    Raises NotFound, ContradictsProvider (it is not contradicted, or has succeeded).
    """
    payment = lock_payment(Payment.id_of(number))
    if payment.contradicted_at is None or payment.status == PaymentStatus.SUCCEEDED:
        raise ContradictsProvider(f"{number} is not contradicted by the provider: there is nothing to set apart.")
    if payment.status in PAYMENT_LIVE:
        cancel(payment, by=by, why=why)
    Payment.objects.filter(pk=payment.pk).update(provider_reference=None, charge_reference=None)


def adopt_refund(*, refund: str, by: str, why: str, instead_of: str = "") -> str:
    """Record a refund that was made at the provider behind our back; it is stored even if it breaks our sum.

    `instead_of` is our refund that it contradicts: it ends failed and gives up its place at the provider. Belongs
    outside of transactions. Returns our number. Raises ProviderUnavailable, ContradictsProvider, NotFound.
    """
    known = Refund.objects.filter(provider_reference=refund)
    if instead_of or not known.exists():
        try:
            if instead_of:
                news = gateway.retrieve_refund(refund)
                _let_refund_go(instead_of, refund, by=by, why=why)
                record_elsewhere(news, by=by, why=why)
            else:
                sync_refund(refund, by=by, why=why)
        except (ProviderUnsure, ProviderBusy) as error:
            raise unavailable(error) from error
        except ProviderRefused as refusal:
            raise ContradictsProvider(f"The provider knows nothing of {refund}: {refusal.message}") from refusal
    row = known.first()
    if row is None:
        raise NotFound("The refunded charge is none of ours: create its payment first.")
    return row.number


@transaction.atomic(durable=True)
def _let_refund_go(number: str, reference: str, *, by: str, why: str) -> None:
    refund, payment = lock_refund(Refund.id_of(number))
    if refund.provider_reference not in (None, reference):
        return  # done before
    if refund.contradicted_at is None or refund.status == RefundStatus.SUCCEEDED:
        raise ContradictsProvider(f"{number} is not contradicted by the provider: there is nothing to replace.")
    if refund.status in REFUND_OPEN:
        values = {"completed_at": Now(), "next_check_at": None}
        transition(
            refund, RefundStatus.FAILED, edges=REFUND_EDGES, history=RefundHistory, by=by, why=why, values=values
        )
        refund_failed(refund, payment, late=False, by=by)
    Refund.objects.filter(pk=refund.pk).update(provider_reference=None)


def post_correction(
    *, number: str, amount_minor: int, cause: str, by: str, why: str, against: Sequence[tuple[str, int]] = ()
) -> bool:
    """Post a correcting entry against what the provider holds: positive, it holds more than our books said.

    `number` is a payment's or a refund's; `cause` names what is corrected and posts once. `against` says on which of our
    accounts (payments.types.CORRECTED_AGAINST) how much of it is booked; without it, all on write-offs. Raises InvalidInput.
    """
    if not amount_minor:
        raise InvalidInput("A correction of nothing corrects nothing.")
    with transaction.atomic():
        row: Payment | Refund
        if number.startswith(Refund.PREFIX):
            row, payment = lock_refund(Refund.id_of(number))
            change, corrected = -amount_minor, f"refund:{number}"  # a larger refund leaves less at the provider
        else:
            row = payment = lock_payment(Payment.id_of(number))
            change, corrected = amount_minor, f"capture:{number}"
        posted = ledger.post_lines(
            key=f"correction:{cause}",
            kind="correction",
            lines=ledger.against_clearing(row.currency, amount_minor, against),
            by=by,
            merchant_id=row.merchant_id,
            subject=number,
            reference=payment.reference,
            memo=why,
            corrects=JournalEntry.objects.filter(key=corrected).values_list("pk", flat=True).first(),
        )
        if posted:
            type(row).objects.filter(pk=row.pk).update(corrected_minor=F("corrected_minor") + change)
    return posted


def record_overcharge(*, number: str, amount_minor: int, cause: str, by: str, why: str) -> bool:
    """Take in what the provider took beyond what a payment of ours says: money of its customer, which can then be given back,
    whatever of the rest went back before. `cause` posts once. In the caller's transaction.

    Raises NotFound, PaymentNotRefundable, InvalidInput.
    """
    payment = lock_payment(Payment.id_of(number))
    if payment.status != PaymentStatus.SUCCEEDED:
        raise PaymentNotRefundable
    if amount_minor <= 0:
        raise InvalidInput("Nothing was taken beyond what our books say.")
    posted = ledger.post(
        key=f"capture:{number}:{cause}",
        kind="capture",
        debit=ledger.clearing(payment.currency),
        credit=refund_source(payment),  # whoever pays its refund
        amount_minor=amount_minor,
        by=by,
        merchant_id=payment.merchant_id,
        subject=number,
        reference=payment.reference,
        memo=why,
    )
    if posted:
        Payment.objects.filter(pk=payment.pk).update(captured_minor=F("captured_minor") + amount_minor)
    return posted


def mark_fraud(number: str, *, by: str, why: str) -> None:
    """Mark a payment as fraud: a mark with a name and a reason, no movement of money. Raises NotFound."""
    with transaction.atomic():
        payment = lock_payment(Payment.id_of(number))
        if payment.fraud_marked_at is None:
            Payment.objects.filter(pk=payment.pk).update(fraud_marked_at=Now())
            PaymentHistory.objects.create(
                subject=payment, from_state=payment.status, to_state=payment.status, by=by, why=f"fraud: {why}"
            )
