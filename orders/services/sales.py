"""What happens to an order when money arrives, and when a sale cannot be carried through."""

import logging
from functools import partial

from django.db import transaction
from django.db.models.functions import Now

from durability import services as durability
from foundation.errors import IllegalTransition
from foundation.transition import transition
from inventory import services as inventory
from orders import selectors, timer
from orders.errors import OrderNotOpen
from orders.events import OrderCancelled, OrderPaid, SaleCancelled
from orders.locks import lock_order
from orders.models import Order, OrderHistory
from orders.states import ORDER_EDGES, OrderStatus
from payments import selectors as payment_reads
from payments import services as payments
from payments.errors import PaymentDisputed, RefundExceedsCaptured
from payments.types import PaymentView

log = logging.getLogger(__name__)


def receive_payment(*, order: str, payment: str, settling: bool) -> None:
    """Start the payment-success saga, or give a success back that does not settle. In the caller's transaction.

    A payment that has no order (one that is only recorded to be refunded) is none of our business.
    """
    if not selectors.is_order(order):
        return
    if settling:
        durability.start_saga("orders.payment_success", key=payment, subject=order, payload={"order": order})
    else:
        give_back(payment, reason=_why_not_settling(order), by="orders")


def _why_not_settling(order: str) -> str:
    if any(one.settling for one in payment_reads.payments_of([order])[order]):
        return "the order was paid by another payment"
    return "the attempt had ended, and its store credit was given back"


def mark_paid(*, number: str, payment: str, by: str) -> None:
    """pending → paid. Raises OrderNotOpen for an order that cannot take the money: then it is refunded."""
    order = lock_order(number)
    money = payment_reads.get_payment(payment)
    if order.status != OrderStatus.PENDING:
        raise OrderNotOpen(f"The order is {order.status}.")
    if (money.captured_minor, money.currency) != (order.total_minor, order.currency):
        raise OrderNotOpen(
            f"{money.captured_minor} {money.currency} arrived, {order.total_minor} {order.currency} was asked for."
        )
    transition(
        order,
        OrderStatus.PAID,
        edges=ORDER_EDGES,
        history=OrderHistory,
        by=by,
        values={"paid_at": money.paid_at or Now(), "cancel_requested_at": None},
    )
    durability.publish(
        OrderPaid(number, str(order.merchant_id), order.customer, order.total_minor, order.currency, payment=payment)
    )
    transaction.on_commit(partial(timer.disarm, [number]))
    open_attempt = payment_reads.open_attempts([number]).get(number)
    if open_attempt:  # paid another way than by the attempt that waits in the customer's browser: nobody may pay twice
        durability.start_saga(
            "orders.cancel_unpaid",
            key=f"{number}:{payment}",
            subject=number,
            payload={"order": number, "payment": open_attempt.number, "by": "payment-success"},
        )


def cancel_and_request_refund(*, number: str, payment: str, by: str) -> None:
    """Undo of `mark_paid`: the order is cancelled, what it still reserves is released, the customer is refunded."""
    order = lock_order(number)
    if order.status in (OrderStatus.PENDING, OrderStatus.PAID):
        cancel(order, by=by, why="the sale could not be carried through")
    inventory.release_reserved(merchant_id=order.merchant_id, reference=number, by=by)
    give_back(payment, reason="the sale could not be carried through", by=by)


def check_order_closed(*, number: str, payment: str) -> None:
    """Raises IllegalTransition unless the order is cancelled and its money back, or on its way."""
    order, money = lock_order(number), payment_reads.get_payment(payment)
    back_minor = money.refunded_minor + money.refunds_open_minor + money.refunds_owed_minor + money.disputed_lost_minor
    if order.status != OrderStatus.CANCELLED or back_minor < money.captured_minor:
        raise IllegalTransition(
            f"Money would be taken and order {number} open: mend the cause and retry, or undo the saga. What cancels the "
            "order and refunds the customer cannot be skipped before both are done."
        )


def give_back(payment: str, *, reason: str, by: str) -> None:
    """Refund, by itself, whatever no order explains of a payment. Nobody decides it, so nobody approves it.

    Not while the payment is disputed: the bank may be paying the customer already. What is left then goes back when
    the dispute is closed.
    """
    try:
        with transaction.atomic():
            payments.request_refund(
                payment=payment, amount_minor=None, reason=reason, requested_by=by, policy=None, automatic=True
            )
    except RefundExceedsCaptured:
        return  # nothing is left
    except PaymentDisputed:
        log.error("payment %s is disputed: it is not given back (%s)", payment, reason)


def give_back_after_dispute(*, order: str, payment: str, by: str) -> None:
    """A dispute was closed: what no order explains of its payment could not go back meanwhile, and goes back now."""
    if not selectors.is_order(order):
        return
    row = lock_order(order)
    if row.status == OrderStatus.CANCELLED or not payment_reads.get_payment(payment).settling:
        give_back(payment, reason="its dispute is closed, and no order explains the money", by=by)


def refund_in_full(payment: str, *, reason: str, by: str) -> None:
    """Refund whatever of a payment is not refunded yet, as somebody asked; does nothing if nothing is left.

    Above the merchant's limit it waits for a second person. Raises PaymentDisputed.
    """
    try:
        with transaction.atomic():
            payments.request_refund(payment=payment, amount_minor=None, reason=reason, requested_by=by, policy=None)
    except RefundExceedsCaptured:
        return


def commit_stock(*, number: str, by: str) -> None:
    """Reserved → sold. Raises a DomainError if the order holds no reservation any more."""
    order = lock_order(number)
    inventory.commit_reserved(merchant_id=order.merchant_id, reference=number, by=by)


def return_stock(*, number: str, by: str) -> None:
    """Undo of `commit_stock`: sold → back on the shelf, if it was sold."""
    order = lock_order(number)
    inventory.return_sold(merchant_id=order.merchant_id, reference=number, by=by)


def note_refund(*, number: str, by: str) -> None:
    """A refund succeeded: a paid order whose cancellation was requested is cancelled once all of it is back."""
    _go_on_cancelling(number, by=by, why="not all of the money went back: the cancellation is withdrawn")


def note_failed_refund(*, number: str, by: str) -> None:
    """A refund failed: the cancellation that asked for it is withdrawn, and a person must look."""
    if selectors.is_order(number):
        log.error("order %s: refund %s failed; the customer has not got the money back", number, by)
    _go_on_cancelling(number, by=by, why="the refund failed: the cancellation is withdrawn, ask for it again")


def note_rejected_refund(*, number: str, by: str) -> None:
    """A second person rejected a refund: the cancellation that waited for it is withdrawn, the order can be shipped."""
    _go_on_cancelling(number, by=by, why="the refund was rejected: the cancellation is withdrawn")


def _go_on_cancelling(number: str, *, by: str, why: str) -> None:
    """A refund has ended. A cancellation waits for the others that are open; then it is carried out, or withdrawn."""
    if not selectors.is_order(number):
        return
    order = lock_order(number)
    if order.status != OrderStatus.PAID or order.cancel_requested_at is None:
        return
    if any(one.refunds_open_minor for one in _settling(number)) or cancel_if_refunded(order, by=by):
        return
    Order.objects.filter(pk=order.pk).update(cancel_requested_at=None)
    OrderHistory.objects.create(subject=order, from_state=order.status, to_state=order.status, by=by, why=why)


def cancel_if_refunded(order: Order, *, by: str) -> bool:
    """Cancel a locked, paid order of whose money nothing is left with us, and return its stock. True if it is done."""
    number = order.number
    settling = _settling(number)
    if not settling or not all(map(_is_all_back, settling)):
        return False
    lost = any(one.disputed_lost_minor for one in settling)
    cancel(order, by=by, why=f"refunded {'or lost to a dispute' if lost else 'in full'} before shipping")
    # The refund may be faster than the saga of the sale: what it has not committed, it shall not commit any more.
    inventory.release_reserved(merchant_id=order.merchant_id, reference=number, by=by)
    inventory.return_sold(merchant_id=order.merchant_id, reference=number, by=by)
    return True


def _settling(number: str) -> list[PaymentView]:
    return [one for one in payment_reads.payments_of([number])[number] if one.settling]


def _is_all_back(payment: PaymentView) -> bool:
    """What a lost dispute took is with the customer too: no refund will ever come for it."""
    back_minor = payment.refunded_minor + payment.disputed_lost_minor
    return not payment.refunds_open_minor and back_minor >= payment.captured_minor


def attach_payment(*, order_number: str, charge: str, by: str, why: str) -> str:
    """Create the payment that our books miss and attach it to its order, which then runs the payment-success saga.

    Belongs outside of transactions. Returns the payment's number. Raises NotFound, ContradictsProvider,
    ProviderUnavailable. An order that is not open any more gives the money back by itself.
    """
    order = selectors.get_order(order_number)
    adopted = payments.adopt_charge(
        charge=charge,
        merchant_id=order.merchant_id,
        reference=order.number,
        customer=order.customer.id,
        amount_minor=order.total_minor,
        currency=order.currency,
        by=by,
        why=why,
        to_pay=True,
    )
    return adopted.number


def cancel(order: Order, *, by: str, why: str) -> None:
    """pending or paid → cancelled, in the caller's transaction. Stock and money are the caller's next lines."""
    transition(order, OrderStatus.CANCELLED, edges=ORDER_EDGES, history=OrderHistory, by=by, why=why)
    about = (order.number, str(order.merchant_id), order.customer, order.total_minor, order.currency)
    durability.publish(OrderCancelled(*about, why=why))
    if order.paid_at:
        durability.publish(SaleCancelled(*about, why=why))
    transaction.on_commit(partial(timer.disarm, [order.number]))
