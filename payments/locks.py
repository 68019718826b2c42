"""Row locks of payments. The global order is: saga → order → payment → refund → stock by primary key → accounts."""

from uuid import UUID

from foundation.errors import NotFound
from payments.models import Payment, Refund


def lock_payment(payment_id: UUID) -> Payment:
    """Raises NotFound."""
    payment = Payment.objects.select_for_update().filter(pk=payment_id).first()
    if payment is None:
        raise NotFound
    return payment


def lock_refund(refund_id: UUID) -> tuple[Refund, Payment]:
    """A refund and its payment, the payment locked first. Raises NotFound."""
    payment_id = Refund.objects.filter(pk=refund_id).values_list("payment_id", flat=True).first()
    if payment_id is None:
        raise NotFound
    payment = lock_payment(payment_id)
    return Refund.objects.select_for_update().get(pk=refund_id), payment
