"""paid → shipped → completed."""

from uuid import UUID

from durability import selectors as durability_reads
from durability import services as durability
from foundation.errors import IllegalTransition, NotFound
from foundation.transition import transition
from orders.events import OrderCompleted, OrderShipped
from orders.locks import lock_order
from orders.models import Order, OrderHistory
from orders.states import ORDER_EDGES, OrderStatus
from payments import selectors as payments


def ship_order(*, number: str, merchant_id: UUID, carrier: str, tracking: str, by: str) -> None:
    """paid → shipped, unless a cancellation is under way. Raises NotFound, IllegalTransition."""
    order = _own(number, merchant_id)
    if order.cancel_requested_at:
        raise IllegalTransition("The order is being cancelled; it cannot be shipped.")
    if order.status == OrderStatus.PAID and not _sale_is_through(number):
        raise IllegalTransition("The sale is still being posted: ship it in a moment.")
    transition(
        order,
        OrderStatus.SHIPPED,
        edges=ORDER_EDGES,
        history=OrderHistory,
        by=by,
        values={"carrier": carrier, "tracking": tracking},
    )
    durability.publish(
        OrderShipped(
            number,
            str(merchant_id),
            order.customer,
            order.total_minor,
            order.currency,
            carrier=carrier,
            tracking=tracking,
        )
    )


def _sale_is_through(number: str) -> bool:
    """What could not be carried through is refunded; until that is settled, nothing may leave the house."""
    settling = [payment.number for payment in payments.payments_of([number])[number] if payment.settling]
    still_open = [one for one in settling if durability_reads.saga_is_open("orders.payment_success", key=one)]
    return bool(settling) and not still_open


def complete_order(*, number: str, merchant_id: UUID, by: str) -> None:
    """shipped → completed. Raises NotFound, IllegalTransition."""
    order = _own(number, merchant_id)
    transition(order, OrderStatus.COMPLETED, edges=ORDER_EDGES, history=OrderHistory, by=by)
    durability.publish(OrderCompleted(number, str(merchant_id), order.customer, order.total_minor, order.currency))


def _own(number: str, merchant_id: UUID) -> Order:
    order = lock_order(number)
    if order.merchant_id != merchant_id:
        raise NotFound
    return order
