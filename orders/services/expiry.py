"""Expiry: the timer says when to look, PostgreSQL says what is due."""

import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from itertools import islice

from django.conf import settings
from django.db import OperationalError, transaction

from durability import services as durability
from foundation.database import database_now
from foundation.transition import transition_many
from inventory import services as inventory
from orders import timer
from orders.events import OrderCancelled
from orders.locks import BEGINNING, Place, lock_due, lock_order
from orders.models import Order, OrderHistory
from orders.services.cancelling import start_cancel
from orders.states import ORDER_EDGES, OrderStatus
from payments import services as payments

log = logging.getLogger(__name__)

BY = "expiry"
WHY = "not paid in time"


def expire_due() -> int:
    """Expire what is due, batch by batch, for ORDER_EXPIRY_RUN_S at most. Returns how many orders were taken up.

    Several runs at once share the work: none waits for what another has locked.
    """
    looked_at = timer.due(database_now(), limit=settings.ORDER_EXPIRY_TIMER_BATCH)
    if not looked_at:
        return 0
    taken, end = 0, time.monotonic() + settings.ORDER_EXPIRY_RUN_S
    place = BEGINNING
    limit = 1  # at first: in a new process PostgreSQL plans every statement and compiles every trigger while these rows are locked
    while time.monotonic() < end:
        batch = expire_batch(after=place, limit=limit)
        if not batch:
            # What the timer still names was paid, cancelled or put off, or another run has it. `rearm` knows better.
            timer.forget(looked_at)
            break
        taken += len(batch)
        place = Place(batch[-1].expires_at, batch[-1].pk)  # forward only: what failed waits for another run
        limit = settings.ORDER_EXPIRY_BATCH
    return taken


def rearm() -> int:
    """Put what expires soon, or should have, back into the timer: whatever Redis lost is found here."""
    horizon = database_now() + timedelta(seconds=2 * settings.ORDER_EXPIRY_REARM_INTERVAL_S)
    rows = Order.objects.filter(
        status=OrderStatus.PENDING, cancel_requested_at__isnull=True, expires_at__lte=horizon
    ).order_by("expires_at")
    found = rows.iterator(chunk_size=1_000)
    armed = 0
    while some := list(islice(found, 1_000)):
        timer.arm({order.number: order.expires_at for order in some})
        armed += len(some)
    return armed


def expire_batch(*, limit: int, after: Place = BEGINNING) -> list[Order]:
    """Cancel a batch: what never reached the provider set-wise and at once, the rest by a saga each.

    Returns the orders that were due. One that fails takes none of the others along: then each gets its saga, which
    tries it again with growing pauses where operators see it.
    """
    orders: dict[str, Order] = {}
    try:
        with transaction.atomic(durable=True):
            orders = {order.number: order for order in lock_due(after=after, limit=limit)}
            free = _cancel_never_sent(orders)
    except Exception:
        if not orders:
            raise
        log.exception("expiry: a batch of %s orders failed; each is tried by itself", len(orders))
        free = set()
    for number in orders:
        if number not in free:
            _start_cancel(number)
    timer.forget({number: order.expires_at.timestamp() for number, order in orders.items()})
    return list(orders.values())


def _cancel_never_sent(orders: Mapping[str, Order]) -> set[str]:
    """Returns the numbers of those that are cancelled now; of the others a payment was sent, or has succeeded."""
    if not orders:
        return set()
    references = [(order.merchant_id, number) for number, order in orders.items()]
    free = payments.cancel_never_sent(references=references, by=BY)
    transition_many(
        Order,
        [order.pk for number, order in orders.items() if number in free],
        before=OrderStatus.PENDING,
        to=OrderStatus.CANCELLED,
        edges=ORDER_EDGES,
        history=OrderHistory,
        by=BY,
        why=WHY,
    )
    durability.publish_many([_news(number, order) for number, order in orders.items() if number in free])
    # Last: a product's row that all buyers want is locked for the shortest time.
    inventory.release_reserved_many(references=[one for one in references if one[1] in free], by=BY)
    return free


def _news(number: str, order: Order) -> OrderCancelled:
    return OrderCancelled(number, str(order.merchant_id), order.customer, order.total_minor, order.currency, why=WHY)


def _start_cancel(number: str) -> None:
    """Start the saga that cancels one order at the provider first, unless it is not due any more."""
    try:
        with transaction.atomic(durable=True):
            order = lock_order(number)
            if order.status != OrderStatus.PENDING or order.cancel_requested_at or order.expires_at > database_now():
                return
            start_cancel(order, by=BY, hold=False)
    except OperationalError:
        raise  # the database is away or busy: that is not this order's fault
    except Exception:
        log.exception("expiry: order %s cannot be cancelled; it is looked at again when it is re-armed", number)
