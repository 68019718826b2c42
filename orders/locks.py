"""Row locks of orders: after the saga's row, before stock and payment.

Whoever locks may change: what the API has kept of the order is forgotten at the commit.
"""

from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from foundation import documents
from foundation.errors import NotFound
from orders.models import Order


def lock_order(number: str) -> Order:
    """Raises NotFound."""
    order = Order.objects.select_for_update().filter(pk=Order.id_of(number)).first()
    if order is None:
        raise NotFound
    documents.forget_after_commit(number)
    return order


class Place(NamedTuple):
    """Where an order stands in the index `order_to_expire`."""

    expires_at: datetime
    order_id: UUID


BEGINNING = Place(datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))

# The index's own order and condition; a test asks PostgreSQL whether it is what the plan uses.
LOCK_DUE = """
SELECT id, merchant_id, status, customer, total_minor, currency, expires_at FROM orders_order
WHERE status = 'pending' AND cancel_requested_at IS NULL
  AND expires_at <= statement_timestamp() AND (expires_at, id) > (%(expires_at)s, %(order_id)s)
ORDER BY expires_at, id
LIMIT %(limit)s
FOR NO KEY UPDATE SKIP LOCKED
"""


def lock_due(*, after: Place, limit: int) -> list[Order]:
    """Lock orders whose time to pay is over, the longest overdue first, but for those that somebody else has locked."""
    due = list(Order.objects.raw(LOCK_DUE, {**after._asdict(), "limit": limit}))
    documents.forget_after_commit(*(order.number for order in due))
    return due
