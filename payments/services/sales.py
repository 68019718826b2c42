"""A sale in the books: what the customer paid becomes what we owe the merchant."""

from payments import ledger
from payments.errors import PaymentNotRefundable
from payments.locks import lock_payment
from payments.models import Payment
from payments.states import PaymentStatus


def post_sale(number: str, *, by: str) -> None:
    """Debit the customer, credit the merchant, once per payment. Raises AccountOverdrawn, PaymentNotRefundable."""
    payment = lock_payment(Payment.id_of(number))
    if payment.status != PaymentStatus.SUCCEEDED:
        raise PaymentNotRefundable(f"{number} has not succeeded: there is no sale to post.")
    _post(payment, f"sale:{number}", "sale", payment.captured_minor, by=by)


def reverse_sale(number: str, *, by: str) -> None:
    """Take the sale back, if it was posted."""
    payment = lock_payment(Payment.id_of(number))
    if ledger.was_posted(f"sale:{number}"):
        _post(payment, f"sale_reversed:{number}", "sale_reversed", -payment.captured_minor, by=by)


def _post(payment: Payment, key: str, kind: str, amount_minor: int, *, by: str) -> None:
    ledger.post(
        key=key,
        kind=kind,
        debit=ledger.customer_account(payment.merchant_id, payment.customer, payment.currency),
        credit=ledger.merchant_payable(payment.merchant_id, payment.currency),
        amount_minor=amount_minor,
        by=by,
        merchant_id=payment.merchant_id,
        subject=payment.number,
        reference=payment.reference,
    )
