"""What orders do about news. Money first; what tells people about it can neither fail nor delay a sale."""

from durability.registry import handles
from durability.types import Since
from orders import services
from orders.events import OrderPaid
from orders.services import letters
from payments.events import PaymentCaptured, RefundFailed, RefundRejected, RefundSucceeded


@handles(PaymentCaptured, name="orders.receive_payment", since=Since.OLDEST_KEPT)
def receive_payment(event: PaymentCaptured) -> None:
    services.receive_payment(order=event.reference, payment=event.payment, settling=event.settling)


@handles(RefundSucceeded, name="orders.note_refund", since=Since.OLDEST_KEPT)
def note_refund(event: RefundSucceeded) -> None:
    services.note_refund(number=event.reference, by=event.refund)


@handles(RefundFailed, name="orders.note_failed_refund", since=Since.OLDEST_KEPT)
def note_failed_refund(event: RefundFailed) -> None:
    services.note_failed_refund(number=event.reference, by=event.refund)


@handles(RefundRejected, name="orders.note_rejected_refund", since=Since.OLDEST_KEPT)
def note_rejected_refund(event: RefundRejected) -> None:
    services.note_rejected_refund(number=event.reference, by=event.refund)


@handles(OrderPaid, name="orders.mail_receipt", since=Since.DEPLOYMENT, outside=True)
def mail_receipt(event: OrderPaid) -> None:
    letters.send_receipt(number=event.order)


@handles(RefundSucceeded, name="orders.mail_refund", since=Since.DEPLOYMENT, outside=True)
def mail_refund(event: RefundSucceeded) -> None:
    letters.send_refund(number=event.reference, refund=event.refund, amount_minor=event.amount_minor)
