"""A person says which payment or refund of ours one of the provider's is: our row named another one, or none.

Nothing is posted but the provider's fee: the money is in our books already, under a name that the provider does not know.
"""

from django.db import IntegrityError, transaction

from payments import gateway, selectors
from payments.errors import ContradictsProvider, ProviderBusy, ProviderRefused, ProviderUnsure
from payments.locks import lock_payment, lock_refund
from payments.models import Payment, PaymentHistory, Refund, RefundHistory
from payments.services.contradictions import asked_minor
from payments.services.payment_news import apply_intent, post_fee
from payments.services.refund_news import apply_refund
from payments.services.rereads import unavailable
from payments.states import PaymentStatus, RefundStatus
from payments.types import Intent, ProviderRefund

_CAN_BE_PAID = ("requires_payment_method", "requires_confirmation", "requires_action", "requires_capture")


def link_charge(*, payment: str, charge: str, by: str, why: str) -> None:
    """Our payment is this charge of the provider's. One that has not succeeded here takes over what the charge says.

    What our payment named until now must not have taken money: where it could still be paid, it is cancelled first.
    Belongs outside of transactions. Done before: changes nothing. Raises NotFound, ProviderUnavailable, ContradictsProvider.
    """
    ours = selectors.get_payment(payment)
    known = selectors.find_by_provider_reference(charge)
    if known is not None:
        if known.number == payment and known.charge_reference == charge:
            return
        if known.number != payment:
            raise ContradictsProvider(f"{charge} is {known.number} already.")
    try:
        intent = gateway.retrieve_intent(gateway.retrieve_charge_intent(charge))
        _check_charge(payment, charge, intent)
        if ours.provider_reference not in ("", intent.id):
            _retire(payment, ours.provider_reference)
    except (ProviderUnsure, ProviderBusy) as error:
        raise unavailable(error) from error
    except ProviderRefused as refusal:
        raise ContradictsProvider(f"The provider does not know what is to be linked: {refusal.message}") from refusal
    try:
        _link(payment, intent, named=ours.provider_reference, by=by, why=why)
    except IntegrityError as error:
        raise ContradictsProvider(f"{charge} was taken by another payment just now.") from error


def _check_charge(payment: str, charge: str, intent: Intent) -> None:
    if intent.status != "succeeded" or intent.charge is None or intent.charge.id != charge:
        raise ContradictsProvider(f"The provider says that {charge} took nothing: there is nothing to link.")
    row = Payment.objects.get(pk=Payment.id_of(payment))
    succeeded = row.status == PaymentStatus.SUCCEEDED
    ours_minor = row.captured_minor + row.corrected_minor if succeeded else row.amount_minor
    if (asked_minor(intent), intent.currency) != (ours_minor, row.currency):
        raise ContradictsProvider(
            f"{charge} is {asked_minor(intent)} {intent.currency}, {payment} is {ours_minor} {row.currency}: they are not "
            "the same money."
        )
    if row.refunds_committed_minor:
        raise ContradictsProvider(
            f"{payment} has refunds, which belong to the charge that it names: link nothing else."
        )


def _retire(payment: str, reference: str) -> None:
    """What a payment named until now. Raises ContradictsProvider where it took money, or may be about to."""
    try:
        named = gateway.retrieve_intent(reference)
    except ProviderRefused as refusal:
        if refusal.code != "resource_missing":
            raise
        return
    if named.status in _CAN_BE_PAID:
        named = gateway.cancel_intent(named.id)
    if named.status != "canceled":
        raise ContradictsProvider(
            f"{payment} is {named.id} at the provider, which is {named.status}: two charges are not one payment."
        )


@transaction.atomic(durable=True)
def _link(number: str, intent: Intent, *, named: str, by: str, why: str) -> None:
    assert intent.charge
    payment = lock_payment(Payment.id_of(number))
    _must_still_name(payment.provider_reference, named)
    if payment.refunds_committed_minor:
        raise ContradictsProvider(f"{number} was refunded just now: look at it again.")
    why = f"linked with {intent.charge.id}: {why}"
    values = {"provider_reference": intent.id}
    if payment.status != PaymentStatus.SUCCEEDED:
        PaymentHistory.objects.create(
            subject=payment, from_state=payment.status, to_state=payment.status, by=by, why=why
        )
        Payment.objects.filter(pk=payment.pk).update(**values)
        payment.provider_reference = intent.id
        if not apply_intent(payment, intent, by=by):
            raise ContradictsProvider
        return
    Payment.objects.filter(pk=payment.pk).update(
        **values, charge_reference=intent.charge.id, captured_at=intent.charge.created_at
    )
    PaymentHistory.objects.create(subject=payment, from_state=payment.status, to_state=payment.status, by=by, why=why)
    if intent.charge.balance_transaction:
        post_fee(intent.charge.balance_transaction, payment=payment, by=by)


def _must_still_name(reference: str | None, named: str) -> None:
    """What was looked at is what is replaced: somebody else may have linked it with another one meanwhile."""
    if (reference or "") != named:
        raise ContradictsProvider("Somebody linked it with another one just now: look at it again.")


def link_refund(*, refund: str, theirs: str, by: str, why: str) -> None:
    """Our refund is this one of the provider's; the same as `link_charge`."""
    selectors.get_refund(refund)
    owner = Refund.objects.filter(provider_reference=theirs).first()
    if owner is not None:
        if owner.number == refund:
            return
        raise ContradictsProvider(f"{theirs} is {owner.number} already.")
    row = Refund.objects.select_related("payment").get(pk=Refund.id_of(refund))
    try:
        news = gateway.retrieve_refund(theirs)
        _check_refund(row, news)
        if row.provider_reference:
            _came_to_nothing(row)
    except (ProviderUnsure, ProviderBusy) as error:
        raise unavailable(error) from error
    except ProviderRefused as refusal:
        raise ContradictsProvider(f"The provider does not know {theirs}: {refusal.message}") from refusal
    try:
        _link_refund(refund, news, named=row.provider_reference or "", by=by, why=why)
    except IntegrityError as error:
        raise ContradictsProvider(f"{theirs} was taken by another refund just now.") from error


def _check_refund(row: Refund, news: ProviderRefund) -> None:
    ours_minor = row.amount_minor + row.corrected_minor
    if (news.amount_minor, news.currency, news.payment_intent) != (
        ours_minor,
        row.currency,
        row.payment.provider_reference,
    ):
        raise ContradictsProvider(
            f"{news.id} gives {news.amount_minor} {news.currency} of {news.payment_intent} back, {row.number} "
            f"{ours_minor} {row.currency} of {row.payment.provider_reference}: they are not the same money."
        )


def _came_to_nothing(row: Refund) -> None:
    """What a refund named until now: unknown to the provider, or failed. Raises ContradictsProvider otherwise."""
    try:
        named = gateway.retrieve_refund(row.provider_reference or "")
    except ProviderRefused as refusal:
        if refusal.code != "resource_missing":
            raise
        return
    if named.status not in ("failed", "canceled"):
        raise ContradictsProvider(
            f"{row.number} is {named.id} at the provider, which is {named.status}: two refunds are not one."
        )


@transaction.atomic(durable=True)
def _link_refund(number: str, news: ProviderRefund, *, named: str, by: str, why: str) -> None:
    refund, payment = lock_refund(Refund.id_of(number))
    _must_still_name(refund.provider_reference, named)
    RefundHistory.objects.create(
        subject=refund, from_state=refund.status, to_state=refund.status, by=by, why=f"linked with {news.id}: {why}"
    )
    Refund.objects.filter(pk=refund.pk).update(provider_reference=news.id, provider_created_at=news.created_at)
    refund.provider_reference = news.id
    if refund.status != RefundStatus.SUCCEEDED:
        apply_refund(refund, payment, news, by=by)
