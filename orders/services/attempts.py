"""Another payment attempt for an order whose earlier one did not succeed."""

from uuid import UUID

from durability import services as durability
from durability.types import Lease
from foundation.database import database_now
from foundation.errors import NotFound
from foundation.ids import public_id, uuid7
from orders.errors import OrderAlreadyPaid, OrderNotOpen, PaymentContradicts, PaymentStillProcessing
from orders.locks import lock_order
from orders.models import Order
from orders.services.checkout import check_store_credit
from orders.states import OrderStatus
from orders.types import PaymentWish
from payments import selectors as payment_reads
from payments import services as payments
from payments.errors import StoreCreditInsufficient
from payments.states import PaymentStatus


def begin_attempt(*, number: str, merchant_id: UUID, wish: PaymentWish) -> tuple[str, Lease | None]:
    """Start the saga of another attempt in the caller's transaction. Returns the new payment's number and the lease.

    Raises NotFound, OrderAlreadyPaid, OrderNotOpen, PaymentStillProcessing, StoreCreditExceedsTotal,
    StoreCreditInsufficient.
    """
    order = lock_order(number)
    if order.merchant_id != merchant_id:
        raise NotFound
    check_payable(order)
    earlier = payment_reads.open_attempts([number]).get(number)
    if earlier and earlier.status == PaymentStatus.PROCESSING:
        raise PaymentStillProcessing
    _check_credit(order, wish, held_minor=earlier.credit_minor if earlier else 0)
    payment = public_id("pay", uuid7())
    lease = durability.hold_saga(
        "orders.new_attempt",
        key=payment,
        subject=number,
        payload={
            "order": number,
            "earlier": earlier.number if earlier else "",
            "method": wish.method,
            "payment_method": wish.payment_method,
            "confirm": wish.confirm,
            "store_credit": wish.store_credit_minor,
        },
    )
    return payment, lease


def record_attempt(*, number: str, payment: str, wish: PaymentWish) -> None:
    """Record the new attempt, now that the earlier one cannot be paid any more. In the caller's transaction.

    Raises OrderAlreadyPaid, OrderNotOpen, PaymentInProgress, StoreCreditInsufficient.
    """
    order = lock_order(number)
    check_payable(order)
    payments.begin_payment(
        merchant_id=order.merchant_id,
        reference=number,
        customer=order.customer,
        amount_minor=order.total_minor,
        currency=order.currency,
        method=wish.method,
        payment_method=wish.payment_method,
        confirm=wish.confirm,
        credit_minor=wish.store_credit_minor,
        number=payment,
    )
    payments.take_credit(payment, by="another attempt")


def _check_credit(order: Order, wish: PaymentWish, *, held_minor: int) -> None:
    """Refuse early what the earlier attempt's release cannot make possible; `record_attempt` decides."""
    check_store_credit(wish, order.total_minor, param="store_credit")
    free_minor = held_minor + payment_reads.store_credit_of(
        merchant_id=order.merchant_id, customer=order.customer, currency=order.currency
    )
    if wish.store_credit_minor > free_minor:
        raise StoreCreditInsufficient(param="store_credit", members={"available": free_minor})


def check_payable(order: Order) -> None:
    """Raises OrderAlreadyPaid with the payment that paid it, PaymentContradicts, or OrderNotOpen."""
    attempts = payment_reads.payments_of([order.number])[order.number]
    paid = [one for one in attempts if one.settling]
    if paid:
        raise OrderAlreadyPaid(members={"payment": paid[0].number})
    if any(one.contradicted and one.charge_reference for one in attempts):
        raise PaymentContradicts  # money is there that nobody asked for: a person gives it back before more is taken
    if order.status != OrderStatus.PENDING or order.cancel_requested_at or order.expires_at <= database_now():
        raise OrderNotOpen
