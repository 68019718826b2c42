"""What orders do about news. Money first; what tells people about it can neither fail nor delay a sale."""

from datetime import datetime
from uuid import UUID

from durability.registry import handles
from durability.types import Since
from orders import services
from orders.events import OrderCancelled, OrderCompleted, OrderPaid, OrderShipped, SaleCancelled
from orders.services import letters, merchant_calls, statistics
from payments.events import (
    DisputeClosed,
    DisputeOpened,
    PaymentCaptured,
    PointsChanged,
    RefundFailed,
    RefundRejected,
    RefundRequested,
    RefundSucceeded,
)

# Whom they depend on: one that is slow slows down its own kind alone.
MAIL, SMS, MERCHANTS, STATISTICS = "mail", "sms", "merchants", "statistics"


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


@handles(DisputeOpened, name="orders.note_dispute", since=Since.OLDEST_KEPT)
def note_dispute(event: DisputeOpened) -> None:
    what = "the customer's bank asks about it" if event.inquiry else "the customer's bank takes the money back"
    services.note_dispute(number=event.reference, by=event.dispute, why=f"disputed ({event.reason}): {what}")


@handles(DisputeClosed, name="orders.note_closed_dispute", since=Since.OLDEST_KEPT)
def note_closed_dispute(event: DisputeClosed) -> None:
    why = f"the dispute is closed: {event.outcome.replace('_', ' ')}"
    services.note_dispute(number=event.reference, by=event.dispute, why=why)


@handles(DisputeClosed, name="orders.give_back_after_dispute", since=Since.OLDEST_KEPT)
def give_back_after_dispute(event: DisputeClosed) -> None:
    services.give_back_after_dispute(order=event.reference, payment=event.payment, by="orders")


# --- Mail -------------------------------------------------------------------------------------------


@handles(OrderPaid, name="orders.mail_receipt", since=Since.DEPLOYMENT, outside=True, aside=MAIL)
def mail_receipt(event: OrderPaid) -> None:
    letters.send_receipt(number=event.order)


@handles(OrderShipped, name="orders.mail_shipment", since=Since.DEPLOYMENT, outside=True, aside=MAIL)
def mail_shipment(event: OrderShipped) -> None:
    letters.send_shipment(number=event.order)


@handles(SaleCancelled, name="orders.mail_cancellation", since=Since.DEPLOYMENT, outside=True, aside=MAIL)
def mail_cancellation(event: SaleCancelled) -> None:
    letters.send_cancellation(number=event.order)


@handles(RefundSucceeded, name="orders.mail_refund", since=Since.DEPLOYMENT, outside=True, aside=MAIL)
def mail_refund(event: RefundSucceeded) -> None:
    letters.send_refund(
        number=event.reference, refund=event.refund, amount_minor=event.amount_minor + event.credit_minor
    )


@handles(RefundFailed, name="orders.mail_failed_refund", since=Since.DEPLOYMENT, outside=True, aside=MAIL)
def mail_failed_refund(event: RefundFailed) -> None:
    letters.warn_of_failed_refund(event=event)


@handles(DisputeOpened, name="orders.mail_dispute", since=Since.DEPLOYMENT, outside=True, aside=MAIL)
def mail_dispute(event: DisputeOpened) -> None:
    letters.warn_of_dispute(event=event)


# --- Text messages ----------------------------------------------------------------------------------


@handles(OrderPaid, name="orders.text_receipt", since=Since.DEPLOYMENT, outside=True, aside=SMS)
def text_receipt(event: OrderPaid) -> None:
    letters.text_receipt(number=event.order)


@handles(OrderShipped, name="orders.text_shipment", since=Since.DEPLOYMENT, outside=True, aside=SMS)
def text_shipment(event: OrderShipped) -> None:
    letters.text_shipment(number=event.order)


# --- Merchants' own systems: written down here, sent by `orders.call_merchants` -----------------------


@handles(OrderPaid, name="orders.call_merchant", since=Since.DEPLOYMENT, aside=MERCHANTS)
@handles(OrderShipped, name="orders.call_merchant_shipped", since=Since.DEPLOYMENT, aside=MERCHANTS)
@handles(OrderCompleted, name="orders.call_merchant_completed", since=Since.DEPLOYMENT, aside=MERCHANTS)
@handles(OrderCancelled, name="orders.call_merchant_ended", since=Since.DEPLOYMENT, aside=MERCHANTS)
@handles(SaleCancelled, name="orders.call_merchant_cancelled", since=Since.DEPLOYMENT, aside=MERCHANTS)
def tell_merchant_of_order(event: OrderPaid | OrderShipped | OrderCompleted | OrderCancelled | SaleCancelled) -> None:
    merchant_calls.tell(merchant_id=event.merchant_id, event=event, subject=event.order)


@handles(RefundRequested, name="orders.call_merchant_refund_requested", since=Since.DEPLOYMENT, aside=MERCHANTS)
@handles(RefundRejected, name="orders.call_merchant_refund_rejected", since=Since.DEPLOYMENT, aside=MERCHANTS)
@handles(RefundSucceeded, name="orders.call_merchant_refunded", since=Since.DEPLOYMENT, aside=MERCHANTS)
@handles(RefundFailed, name="orders.call_merchant_refund_failed", since=Since.DEPLOYMENT, aside=MERCHANTS)
def tell_merchant_of_refund(event: RefundRequested | RefundRejected | RefundSucceeded | RefundFailed) -> None:
    merchant_calls.tell(merchant_id=event.merchant_id, event=event, subject=event.refund)


@handles(DisputeOpened, name="orders.call_merchant_disputed", since=Since.DEPLOYMENT, aside=MERCHANTS)
@handles(DisputeClosed, name="orders.call_merchant_dispute_closed", since=Since.DEPLOYMENT, aside=MERCHANTS)
def tell_merchant_of_dispute(event: DisputeOpened | DisputeClosed) -> None:
    merchant_calls.tell(merchant_id=event.merchant_id, event=event, subject=event.dispute)


# --- Statistics: our own database, but nothing waits for it -----------------------------------------


@handles(OrderPaid, name="orders.count_sale", since=Since.OLDEST_KEPT, aside=STATISTICS)
def count_sale(event: OrderPaid) -> None:
    statistics.count_sale(number=event.order)


@handles(RefundSucceeded, name="orders.count_refund", since=Since.OLDEST_KEPT, aside=STATISTICS)
def count_refund(event: RefundSucceeded) -> None:
    statistics.count_refund(number=event.reference, payment=event.payment, refund=event.refund)


@handles(RefundFailed, name="orders.count_failed_refund", since=Since.OLDEST_KEPT, aside=STATISTICS)
def count_failed_refund(event: RefundFailed) -> None:
    if event.late:
        statistics.count_refund(number=event.reference, payment=event.payment, refund=event.refund, came_back=True)


@handles(PointsChanged, name="orders.count_points", since=Since.OLDEST_KEPT, aside=STATISTICS)
def count_points(event: PointsChanged) -> None:
    statistics.count_points(
        merchant_id=UUID(event.merchant_id),
        at=datetime.fromisoformat(event.at),
        currency=event.currency,
        points=event.points,
    )
