"""Reading orders, with their items and payments."""

from collections.abc import Sequence
from datetime import date, datetime
from uuid import UUID

from django.db.models import F, QuerySet, Sum, prefetch_related_objects

from foundation.errors import NotFound
from foundation.ids import first_id_at
from orders.models import DailySales, MerchantCall, Order
from orders.types import Customer, DaysSales, ItemView, OrderView
from payments import selectors as payments
from payments.states import refund_status
from payments.types import PaymentView


def is_order(reference: str) -> bool:
    """Whether a payment's reference names an order: money is also taken and given back without one."""
    return reference.startswith(f"{Order.PREFIX}_")


def get_order(number: str, *, merchant_id: UUID | None = None) -> OrderView:
    """Raises NotFound, also for another merchant's."""
    rows = Order.objects.filter(pk=Order.id_of(number))
    found = views(list(rows.filter(merchant_id=merchant_id) if merchant_id else rows))
    if not found:
        raise NotFound
    return found[0]


def orders_of(*, merchant_id: UUID, customer: str = "", status: str = "") -> QuerySet[Order]:
    """A merchant's orders, to be paged."""
    rows = Order.objects.filter(merchant_id=merchant_id)
    if customer:
        rows = rows.filter(customer=customer)
    return rows.filter(status=status) if status else rows


def orders_asking(*, total_minor: int, currency: str, since: datetime, until: datetime, limit: int) -> list[OrderView]:
    """Orders that were placed in a window and ask for just that amount, those that nobody paid first, the newest first."""
    placed = Order.objects.filter(pk__gte=first_id_at(since), pk__lt=first_id_at(until))
    rows = placed.filter(total_minor=total_minor, currency=currency).order_by(
        F("paid_at").desc(nulls_first=True), "-pk"
    )
    return views(list(rows[:limit]))


def daily_sales(*, since: date, limit: int) -> list[DaysSales]:
    """What was sold each day from a date on, by merchant and currency: of the `limit` merchants with the most orders."""
    days = DailySales.objects.filter(date__gte=since)
    busiest = days.values("merchant_id").annotate(orders=Sum("orders_paid")).order_by("-orders", "merchant_id")[:limit]
    rows = days.filter(merchant_id__in=[row["merchant_id"] for row in busiest]).order_by("date", "merchant_id")
    columns = ("merchant_id", "date", "currency", "orders_paid", "revenue_minor", "refunds", "refunded_minor", "points")
    return [DaysSales(*row) for row in rows.values_list(*columns)]


def disputed_orders() -> list[UUID]:
    """Ids of the orders of which a payment is disputed at present."""
    return [Order.id_of(reference) for reference in payments.disputed_references() if is_order(reference)]


def merchant_calls_about(numbers: Sequence[str]) -> list[MerchantCall]:
    """What merchants' own systems were, or are to be, told about some objects, oldest first."""
    return list(MerchantCall.objects.filter(subject__in=numbers).order_by("pk"))


def merchant_calls_given_up() -> int:
    """How many calls to merchants wait for an operator."""
    return MerchantCall.objects.filter(state=MerchantCall.State.GIVEN_UP).count()


def views(orders: Sequence[Order]) -> list[OrderView]:
    """Orders with items and payments: three queries for any number of orders."""
    prefetch_related_objects(list(orders), "items")
    paid = payments.payments_of([order.number for order in orders])
    return [_view(order, paid[order.number]) for order in orders]


def _view(order: Order, payments_made: list[PaymentView]) -> OrderView:
    return OrderView(
        id=order.id,
        number=order.number,
        merchant_id=order.merchant_id,
        status=order.status,
        refund_status=_refund_status(payments_made),
        dispute=_dispute(payments_made),
        customer=Customer(order.customer, order.customer_email, order.customer_phone),
        currency=order.currency,
        total_minor=order.total_minor,
        items=[
            ItemView(item.product, item.title, item.quantity, item.unit_price_minor, item.amount_minor)
            for item in order.items.all()
        ],
        payments=payments_made,
        carrier=order.carrier,
        tracking=order.tracking,
        expires_at=order.expires_at,
        created_at=order.created_at,
        paid_at=order.paid_at,
    )


def _dispute(payments_made: Sequence[PaymentView]) -> str:
    if any(payment.disputed for payment in payments_made):
        return "disputed"
    return "lost" if any(payment.disputed_lost_minor for payment in payments_made) else ""


def _refund_status(payments_made: Sequence[PaymentView]) -> str:
    settling = [payment for payment in payments_made if payment.settling]
    return refund_status(
        captured_minor=sum(payment.captured_minor for payment in settling),
        refunded_minor=sum(payment.refunded_minor for payment in settling),
        open_minor=sum(payment.refunds_open_minor for payment in settling),
    )
