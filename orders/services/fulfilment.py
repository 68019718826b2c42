"""paid → shipped → completed."""

from uuid import UUID

from durability import services as durability
from foundation.errors import IllegalTransition, NotFound
from foundation.transition import transition
from orders.events import OrderCompleted, OrderShipped
from orders.locks import lock_order
from orders.models import Order, OrderHistory
from orders.states import ORDER_EDGES, OrderStatus


def ship_order(*, number: str, merchant_id: UUID, carrier: str, tracking: str, by: str) -> None:
    """paid → shipped, unless a cancellation is under way. Raises NotFound, IllegalTransition."""
    order = _own(number, merchant_id)
    if order.cancel_requested_at:
        raise IllegalTransition("The order is being cancelled; it cannot be shipped.")
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
