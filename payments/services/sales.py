"""A sale in the books: what the customer paid becomes what we owe the merchant."""

from django.db.models import Sum

from payments import ledger
from payments.errors import PaymentNotRefundable
from payments.locks import lock_payment
from payments.models import Dispute, Payment, Posting, Refund
from payments.states import PaymentStatus


def post_sale(number: str, *, by: str) -> None:
    """Debit the customer, credit the merchant, once per payment. Raises AccountOverdrawn, PaymentNotRefundable.

    A refund that was asked for before this sale was posted took its amount from the customer's account, and so did a
    dispute that was lost before: only the rest is the merchant's.
    """
    payment = lock_payment(Payment.id_of(number))
    if payment.status != PaymentStatus.SUCCEEDED:
        raise PaymentNotRefundable(f"{number} has not succeeded: there is no sale to post.")
    takers = [row.number for kind in (Refund, Dispute) for row in kind.objects.filter(payment=payment)]
    left_minor = payment.captured_minor - _taken_from_customer(payment, entry__subject__in=takers)
    if left_minor:
        _post(payment, f"sale:{number}", "sale", left_minor, by=by)


def reverse_sale(number: str, *, by: str) -> None:
    """Take the sale back, if it was posted."""
    payment = lock_payment(Payment.id_of(number))
    if ledger.was_posted(f"sale:{number}"):
        sold_minor = _taken_from_customer(payment, entry__key=f"sale:{number}")
        _post(payment, f"sale_reversed:{number}", "sale_reversed", -sold_minor, by=by)


def _taken_from_customer(payment: Payment, **entries: object) -> int:
    account = ledger.customer_account(payment.merchant_id, payment.customer, payment.currency)
    postings = Posting.objects.filter(account_id=account.id, **entries)
    return postings.aggregate(total=Sum("amount_minor"))["total"] or 0


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
