"""The table of an order's states: one line an edge, with who takes it. PostgreSQL refuses every other."""

from typing import Final


class OrderStatus:
    PENDING: Final = "pending"
    PAID: Final = "paid"
    SHIPPED: Final = "shipped"
    COMPLETED: Final = "completed"
    CANCELLED: Final = "cancelled"


_S = OrderStatus

ORDER_EDGES = frozenset(
    {
        (_S.PENDING, _S.PAID),  # the payment-success saga
        (_S.PENDING, _S.CANCELLED),  # expiry, the customer, a refused checkout
        (_S.PAID, _S.SHIPPED),  # the merchant
        (_S.SHIPPED, _S.COMPLETED),  # the merchant
        (_S.PAID, _S.CANCELLED),  # a full refund before shipping, or a sale that could not be carried through
    }
)
