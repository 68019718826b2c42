"""News of orders, by name and version; payloads hold ids, amount and reason."""

from dataclasses import dataclass
from typing import ClassVar

from durability.types import Event


@dataclass(frozen=True, slots=True)
class _AboutOrder(Event):
    order: str
    merchant_id: str
    customer: str
    amount_minor: int
    currency: str

    @property
    def key(self) -> str:
        return self.order


@dataclass(frozen=True, slots=True)
class OrderPlaced(_AboutOrder):
    name: ClassVar[str] = "orders.order_placed.v1"


@dataclass(frozen=True, slots=True)
class OrderPaid(_AboutOrder):
    name: ClassVar[str] = "orders.order_paid.v1"
    payment: str


@dataclass(frozen=True, slots=True)
class OrderShipped(_AboutOrder):
    name: ClassVar[str] = "orders.order_shipped.v1"
    carrier: str
    tracking: str


@dataclass(frozen=True, slots=True)
class OrderCompleted(_AboutOrder):
    name: ClassVar[str] = "orders.order_completed.v1"


@dataclass(frozen=True, slots=True)
class OrderCancelled(_AboutOrder):
    name: ClassVar[str] = "orders.order_cancelled.v1"
    why: str


@dataclass(frozen=True, slots=True)
class SaleCancelled(_AboutOrder):
    """A paid order is cancelled, beside `OrderCancelled`: of the many that nobody ever paid, nobody is told."""

    name: ClassVar[str] = "orders.sale_cancelled.v1"
    why: str
