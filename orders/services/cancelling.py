"""Cancelling: at the provider first, so that nobody pays for what is not held for them any more."""

from datetime import timedelta
from functools import partial
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from durability import services as durability
from durability.types import Lease
from foundation.database import database_now
from foundation.errors import IllegalTransition, NotFound
from inventory import services as inventory
from orders import timer
from orders.locks import lock_order
from orders.models import Order
from orders.services.sales import cancel, cancel_if_refunded, refund_in_full
from orders.states import OrderStatus
from payments import selectors as payment_reads
from payments.states import PAYMENT_LIVE


def request_cancel(
    *, number: str, merchant_id: UUID, unpaid_only: bool, by: str, hold: bool, why: str = ""
) -> Lease | None:
    """Begin to cancel an order in the caller's transaction; from here on it can be neither paid anew nor shipped.

    Unpaid: its payment is cancelled at the provider, then the order (the lease goes on with it). Paid: a full refund
    is requested, which above the merchant's limit waits for a second person, and the order is cancelled when it
    succeeded; if it is rejected or fails, so is the cancellation. Raises NotFound, IllegalTransition, PaymentDisputed.
    """
    order = lock_order(number)
    if order.merchant_id != merchant_id:
        raise NotFound
    if order.status == OrderStatus.CANCELLED or order.cancel_requested_at:
        return None
    if order.status == OrderStatus.PENDING:
        return start_cancel(order, by=by, hold=hold, why=why)
    if order.status == OrderStatus.PAID and not unpaid_only:
        Order.objects.filter(pk=order.pk).update(cancel_requested_at=Now())
        for payment in payment_reads.payments_of([number])[number]:
            if payment.settling:
                refund_in_full(payment.number, reason=why or "the order was cancelled", by=by)
        cancel_if_refunded(order, by=by)  # all of it was refunded before
        return None
    raise IllegalTransition(f"The order is {order.status}; it cannot be cancelled with this key.")


def start_cancel(order: Order, *, by: str, hold: bool, why: str = "") -> Lease | None:
    """Start the saga that cancels a locked, pending order."""
    requested_at = database_now()
    Order.objects.filter(pk=order.pk).update(cancel_requested_at=requested_at)
    live = payment_reads.open_attempts([order.number]).get(order.number)
    payload = {"order": order.number, "payment": live.number if live else "", "by": by, "why": why}
    key = f"{order.number}:{requested_at.timestamp():.6f}"
    if hold:
        return durability.hold_saga("orders.cancel_unpaid", key=key, subject=order.number, payload=payload)
    durability.start_saga("orders.cancel_unpaid", key=key, subject=order.number, payload=payload)
    return None


def close_unpaid(*, number: str, by: str, why: str = "") -> None:
    """Cancel a pending order and release its stock, unless it was paid meanwhile or still may be."""
    order = lock_order(number)
    if order.status != OrderStatus.PENDING:
        _close_attempt(number)  # paid another way, while this attempt was being processed and could not be cancelled
        return
    attempts = payment_reads.payments_of([number])[number]
    if any(attempt.settling for attempt in attempts):
        _keep_open(order)  # the payment-success saga takes over; while it is stuck, this is asked again now and then
        return
    if any(attempt.status in PAYMENT_LIVE for attempt in attempts):
        _keep_open(order)
        return
    cancel(order, by=by, why=why or ("not paid in time" if by == "expiry" else f"cancelled by {by}"))
    inventory.release_reserved(merchant_id=order.merchant_id, reference=number, by=by)


def forget_cancel(*, number: str) -> None:
    """Undo of a cancellation that the provider refused: the order is open again for a while, then expiry asks anew."""
    order = lock_order(number)
    if order.status == OrderStatus.PENDING:
        _keep_open(order)


def _keep_open(order: Order) -> None:
    extended = database_now() + timedelta(seconds=settings.ORDER_EXPIRY_EXTENSION_S)
    Order.objects.filter(pk=order.pk).update(cancel_requested_at=None, expires_at=extended)
    transaction.on_commit(partial(timer.arm, {order.number: extended}))


def undo_checkout(*, number: str, by: str) -> None:
    """The provider refused to open the payment: the order and its reservation are taken back.

    Where an operator turned the saga back, nobody knows what became of the payment: it is closed at the provider.
    """
    order = lock_order(number)
    turned_back = _close_attempt(number)
    if order.status == OrderStatus.PENDING:
        cancel(order, by=by, why="its checkout was turned back" if turned_back else "the provider refused the payment")
        inventory.release_reserved(merchant_id=order.merchant_id, reference=number, by=by)


def _close_attempt(number: str) -> bool:
    """See to it that nobody pays an order's live attempt any more, however long that takes. False if it has none."""
    live = payment_reads.open_attempts([number]).get(number)
    if live:
        durability.start_saga("payments.close_intent", key=live.number, subject=number)
    return live is not None
