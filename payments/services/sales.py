"""A sale in the books: what the customer paid becomes what we owe the merchant."""

from payments import ledger
from payments.errors import PaymentNotRefundable
from payments.locks import lock_payment
from payments.models import Payment, Posting
from payments.services import credit, loyalty
from payments.states import PaymentStatus


def post_sale(number: str, *, by: str) -> None:
    """Debit the customer, credit the merchant, once per payment. Raises AccountOverdrawn, PaymentNotRefundable.

    A refund that was asked for before this sale was posted took its amount from the customer's accounts, and so did a
    dispute that was lost before: only the rest is the merchant's. Where nothing is left, the merchant takes over what was
    taken: the sale is posted all the same, so that a refund that fails comes back to the merchant. Store credit that was
    held is spent, and loyalty points are earned.
    """
    payment = lock_payment(Payment.id_of(number))
    if payment.status != PaymentStatus.SUCCEEDED:
        raise PaymentNotRefundable(f"{number} has not succeeded: there is no sale to post.")
    left_minor = payment.captured_minor - credit.taken_before(payment, _customer(payment))
    if payment.captured_minor and not left_minor:
        _post(payment, f"sale_taken_over:{number}", "sale_taken_over", -payment.captured_minor, by=by)
    if payment.captured_minor:
        _post(payment, f"sale:{number}", "sale", left_minor or payment.captured_minor, by=by)
    credit.spend_credit(payment, by=by)
    loyalty.earn_points(payment, by=by)


def reverse_sale(number: str, *, by: str) -> None:
    """Take the sale back, if it was posted."""
    payment = lock_payment(Payment.id_of(number))
    sold = Posting.objects.filter(entry__key=f"sale:{number}", account_id=_customer(payment).id).first()
    if sold:
        _post(payment, f"sale_reversed:{number}", "sale_reversed", -sold.amount_minor, by=by)
    taken_over = f"sale_taken_over:{number}"
    if taken_over_minor := ledger.amounts_of([taken_over])[taken_over]:
        _post(payment, f"sale_given_over:{number}", "sale_given_over", taken_over_minor, by=by)
    credit.unspend_credit(payment, by=by)
    loyalty.reverse_points(payment, by=by)


def _customer(payment: Payment) -> ledger.AccountKey:
    return ledger.customer_account(payment.merchant_id, payment.customer, payment.currency)


def _post(payment: Payment, key: str, kind: str, amount_minor: int, *, by: str) -> None:
    ledger.post(
        key=key,
        kind=kind,
        debit=_customer(payment),
        credit=ledger.merchant_payable(payment.merchant_id, payment.currency),
        amount_minor=amount_minor,
        by=by,
        merchant_id=payment.merchant_id,
        subject=payment.number,
        reference=payment.reference,
    )
