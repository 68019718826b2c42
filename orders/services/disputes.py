"""A customer's bank disputes what was paid for an order: its story tells of it. Its state does not change."""

from orders import selectors
from orders.locks import lock_order
from orders.models import OrderHistory


def note_dispute(*, number: str, by: str, why: str) -> None:
    """Write into an order's history what became of a dispute. In the caller's transaction."""
    if not selectors.is_order(number):
        return
    order = lock_order(number)
    OrderHistory.objects.create(subject=order, from_state=order.status, to_state=order.status, by=by, why=why)
