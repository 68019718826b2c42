"""Daily sales, counted as the news come: each call belongs into the transaction that marks its delivery done."""

from datetime import UTC, datetime
from uuid import UUID

from django.db import connection

from orders import selectors
from payments import selectors as payments

_ADD = """
INSERT INTO orders_dailysales AS day (merchant_id, date, currency, orders_paid, revenue_minor, refunds, refunded_minor,
                                      points)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (merchant_id, date, currency) DO UPDATE SET
    orders_paid = day.orders_paid + excluded.orders_paid,
    revenue_minor = day.revenue_minor + excluded.revenue_minor,
    refunds = day.refunds + excluded.refunds,
    refunded_minor = day.refunded_minor + excluded.refunded_minor,
    points = day.points + excluded.points
"""


def count_sale(*, number: str) -> None:
    """Add a paid order to the day on which it was paid."""
    order = selectors.get_order(number)
    if order.paid_at:
        _add(order.merchant_id, order.paid_at, order.currency, orders_paid=1, revenue_minor=order.total_minor)


def count_refund(*, number: str, payment: str, refund: str, came_back: bool = False) -> None:
    """Add a refund to the day on which it was paid; or take it off the day on which it came back.

    Of money that never was a sale (an order that was not to be had any more, a second payment) nothing is counted.
    """
    if not selectors.is_order(number):
        return
    order = selectors.get_order(number)
    if not order.paid_at or not payments.get_payment(payment).settling:
        return
    one = payments.get_refund(refund)
    # What went back as store credit stays the customer's, whatever the bank does with the rest.
    moved_minor = one.credit_minor - one.amount_minor if came_back else one.amount_minor
    when = one.completed_at or one.created_at
    _add(order.merchant_id, when, one.currency, refunds=-1 if came_back else 1, refunded_minor=moved_minor)


def count_points(*, merchant_id: UUID, at: datetime, currency: str, points: int) -> None:
    """Add what a sale earned its customer to a day, or take off what a refund took back."""
    _add(merchant_id, at, currency, points=points)


def _add(
    merchant_id: UUID,
    at: datetime,
    currency: str,
    *,
    orders_paid: int = 0,
    revenue_minor: int = 0,
    refunds: int = 0,
    refunded_minor: int = 0,
    points: int = 0,
) -> None:
    day = at.astimezone(UTC).date()
    with connection.cursor() as cursor:
        cursor.execute(_ADD, [merchant_id, day, currency, orders_paid, revenue_minor, refunds, refunded_minor, points])
