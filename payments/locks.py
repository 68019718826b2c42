"""Row locks of payments. The global order is: saga → order → payment → refund → stock by primary key → accounts.

Whoever locks may change: what the API has kept of the payment, and of what it pays for, is forgotten at the commit.
"""

from uuid import UUID

from foundation import documents
from foundation.errors import NotFound
from payments.models import Payment, Refund


def lock_payment(payment_id: UUID) -> Payment:
    """Raises NotFound."""
    payment = Payment.objects.select_for_update().filter(pk=payment_id).first()
    if payment is None:
        raise NotFound
    documents.forget_after_commit(payment.number, payment.reference)
    return payment


def lock_refund(refund_id: UUID) -> tuple[Refund, Payment]:
    """A refund and its payment, the payment locked first. Raises NotFound."""
    payment_id = Refund.objects.filter(pk=refund_id).values_list("payment_id", flat=True).first()
    if payment_id is None:
        raise NotFound
    payment = lock_payment(payment_id)
    return Refund.objects.select_for_update().get(pk=refund_id), payment
