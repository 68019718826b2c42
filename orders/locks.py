"""Row locks of orders: after the saga's row, before stock and payment."""

from foundation.errors import NotFound
from orders.models import Order


def lock_order(number: str) -> Order:
    """Raises NotFound."""
    order = Order.objects.select_for_update().filter(pk=Order.id_of(number)).first()
    if order is None:
        raise NotFound
    return order
