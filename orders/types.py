"""What orders tell the apps above and the edges. Amounts are minor units."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID

from payments.types import PaymentView


@dataclass(frozen=True, slots=True)
class Customer:
    """A snapshot of the storefront's customer."""

    id: str
    email: str = ""
    phone: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One line of a cart: a product's public id and a quantity."""

    product: str
    quantity: int


@dataclass(frozen=True, slots=True)
class PaymentWish:
    """How the customer wants to pay. `payment_method` and `confirm` where we confirm, else the browser does.

    `store_credit_minor` of the total is to come from the customer's store credit.
    """

    method: str = "card"
    payment_method: str = ""
    confirm: bool = False
    store_credit_minor: int = 0


@dataclass(frozen=True, slots=True)
class ItemView:
    product: str
    title: str
    quantity: int
    unit_price_minor: int
    amount_minor: int


@dataclass(frozen=True, slots=True)
class DaysSales:
    """What a merchant sold in one currency on one day (UTC). Refunds are less those that came back."""

    merchant_id: UUID
    date: date
    currency: str
    orders_paid: int
    revenue_minor: int
    refunds: int
    refunded_minor: int
    points: int = 0  # loyalty points, less those that refunds took back


@dataclass(frozen=True, slots=True)
class OrderView:
    """An order with its items and payments. `refund_status` is derived: none, partial, refunding, refunded; so is
    `dispute`: empty, disputed, lost.
    """

    id: UUID
    number: str
    merchant_id: UUID
    status: str
    refund_status: str
    dispute: str
    customer: Customer
    currency: str
    total_minor: int
    items: Sequence[ItemView]
    payments: Sequence[PaymentView]
    carrier: str
    tracking: str
    expires_at: datetime
    created_at: datetime
    paid_at: datetime | None
