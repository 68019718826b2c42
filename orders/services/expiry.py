"""Expiry: the timer says when to look, PostgreSQL says what is due."""

from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from durability import services as durability
from foundation.database import database_now
from inventory import services as inventory
from orders import timer
from orders.events import OrderCancelled
from orders.models import Order, OrderHistory
from orders.services.cancelling import start_cancel
from orders.states import OrderStatus
from payments import services as payments

BY = "expiry"


def expire_due() -> int:
    """Expire what the timer says is due, batch by batch. Returns how many orders were cancelled or are on the way."""
    expired = 0
    while numbers := timer.due(database_now(), limit=settings.ORDER_EXPIRY_BATCH):
        expired += _expire(numbers)
        timer.disarm(numbers)
    return expired


def rearm() -> int:
    """Put what expires soon, or should have, back into the timer: whatever Redis lost is found here."""
    horizon = database_now() + timedelta(seconds=2 * settings.ORDER_EXPIRY_REARM_INTERVAL_S)
    rows = Order.objects.filter(
        status=OrderStatus.PENDING, cancel_requested_at__isnull=True, expires_at__lte=horizon
    ).order_by("expires_at")
    due = {order.number: order.expires_at for order in rows.iterator(chunk_size=1_000)}
    timer.arm(due)
    return len(due)


@transaction.atomic(durable=True)
def _expire(numbers: list[str]) -> int:
    """Cancel a batch: what never reached the provider set-wise and at once, the rest by a saga each."""
    orders = list(
        Order.objects.select_for_update(skip_locked=True)
        .filter(
            pk__in=[Order.id_of(number) for number in numbers],
            status=OrderStatus.PENDING,
            cancel_requested_at__isnull=True,
            expires_at__lte=Now(),
        )
        .order_by("pk")
    )
    free = set(payments.cancel_never_sent(references=[order.number for order in orders], by=BY))
    _cancel_all([order for order in orders if order.number in free])
    for order in orders:
        if order.number not in free:
            start_cancel(order, by=BY, hold=False)
    return len(orders)


def _cancel_all(orders: list[Order]) -> None:
    Order.objects.filter(pk__in=[order.pk for order in orders]).update(status=OrderStatus.CANCELLED)
    why = "not paid in time"
    OrderHistory.objects.bulk_create(
        OrderHistory(subject=order, from_state=OrderStatus.PENDING, to_state=OrderStatus.CANCELLED, by=BY, why=why)
        for order in orders
    )
    inventory.release_reserved_many(references=[(order.merchant_id, order.number) for order in orders], by=BY)
    for order in orders:
        durability.publish(
            OrderCancelled(
                order.number, str(order.merchant_id), order.customer, order.total_minor, order.currency, why=why
            )
        )
