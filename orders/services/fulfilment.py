"""paid → shipped → completed."""

from collections.abc import Sequence
from uuid import UUID

from durability import selectors as durability_reads
from durability import services as durability
from foundation.errors import IllegalTransition, NotFound
from foundation.transition import transition
from orders.errors import OrderDisputed
from orders.events import OrderCompleted, OrderShipped
from orders.locks import lock_order
from orders.models import Order, OrderHistory
from orders.states import ORDER_EDGES, OrderStatus
from payments import selectors as payments
from payments.types import PaymentView


def ship_order(
    *,
    number: str,
    merchant_id: UUID,
    carrier: str,
    tracking: str,
    by: str,
    why: str = "",
    although_disputed: bool = False,
) -> None:
    """paid → shipped, unless a cancellation is under way, or the customer's bank takes the money back.

    `although_disputed` is a person's decision, with the reason in `why`. Raises NotFound, IllegalTransition, OrderDisputed.
    """
    order = _own(number, merchant_id)
    if order.cancel_requested_at:
        raise IllegalTransition("The order is being cancelled; it cannot be shipped.")
    if order.status == OrderStatus.PAID:
        paid = [payment for payment in payments.payments_of([number])[number] if payment.settling]
        if not _sale_is_through(paid):
            raise IllegalTransition("The sale is still being posted: ship it in a moment.")
        disputed = [one.number for one in paid if one.disputed or one.disputed_lost_minor]
        if disputed and not although_disputed:
            raise OrderDisputed(members={"payment": disputed[0]})
        why = f"although its payment is disputed: {why}" if disputed else why
    transition(
        order,
        OrderStatus.SHIPPED,
        edges=ORDER_EDGES,
        history=OrderHistory,
        by=by,
        why=why,
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


def _sale_is_through(paid: Sequence[PaymentView]) -> bool:
    """What could not be carried through is refunded; until that is settled, nothing may leave the house."""
    still_open = [one for one in paid if durability_reads.saga_is_open("orders.payment_success", key=one.number)]
    return bool(paid) and not still_open


def complete_order(*, number: str, merchant_id: UUID, by: str, why: str = "") -> None:
    """shipped → completed. Raises NotFound, IllegalTransition."""
    order = _own(number, merchant_id)
    transition(order, OrderStatus.COMPLETED, edges=ORDER_EDGES, history=OrderHistory, by=by, why=why)
    durability.publish(OrderCompleted(number, str(merchant_id), order.customer, order.total_minor, order.currency))


def _own(number: str, merchant_id: UUID) -> Order:
    order = lock_order(number)
    if order.merchant_id != merchant_id:
        raise NotFound
    return order
