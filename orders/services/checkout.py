"""Checkout's first commit: price the cart, place the order, record the payment's intent, reserve the stock."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

from django.db import transaction

from catalog import selectors as catalog
from catalog.types import Offer
from durability import services as durability
from durability.types import Lease
from foundation.database import database_now
from foundation.errors import InvalidInput
from foundation.ids import uuid7
from inventory import services as inventory
from inventory.types import Line
from orders import timer
from orders.errors import CurrencyMixed, NothingToPay, ProductNotFound
from orders.events import OrderPlaced
from orders.models import Order, OrderItem
from orders.types import Customer, PaymentWish, Wanted
from payments import services as payments
from payments.errors import StoreCreditExceedsTotal


@dataclass(frozen=True, slots=True)
class Placed:
    """What checkout's first commit made. `lease` lets the same request go on with the second one."""

    order: str
    payment: str
    lease: Lease | None


def place_order(
    *, merchant_id: UUID, customer: Customer, wanted: Sequence[Wanted], wish: PaymentWish, hold: bool
) -> Placed:
    """Place an order in the caller's transaction: all of it commits, or nothing.

    With `hold` the caller opens the payment itself right after its commit; without it a worker does. Raises
    ProductNotFound, CurrencyMixed, NothingToPay, StoreCreditExceedsTotal, InsufficientStock, StoreCreditInsufficient.
    """
    offers = catalog.get_offers(merchant_id=merchant_id, products=[one.product for one in wanted])
    for index, one in enumerate(wanted):
        if one.product not in offers:
            raise ProductNotFound(param=f"items[{index}].product")
    lines = _merged(wanted, offers)
    currencies = {offer.currency for offer, _ in lines}
    if len(currencies) > 1:
        raise CurrencyMixed(param="items")
    total_minor = sum(offer.price_minor * quantity for offer, quantity in lines)
    if total_minor <= 0:
        raise NothingToPay(param="items")
    check_store_credit(wish, total_minor, param="payment.store_credit")

    terms = catalog.get_merchant(merchant_id)
    order = Order(
        id=uuid7(),
        merchant_id=merchant_id,
        customer=customer.id,
        customer_email=customer.email,
        customer_phone=customer.phone,
        currency=currencies.pop(),
        total_minor=total_minor,
        expires_at=database_now() + timedelta(seconds=terms.order_expires_after_s),
    )
    order.save(force_insert=True)
    OrderItem.objects.bulk_create(
        OrderItem(
            order=order,
            merchant_id=merchant_id,
            product_id=offer.id,
            product=offer.product,
            title=offer.title,
            quantity=quantity,
            unit_price_minor=offer.price_minor,
            amount_minor=offer.price_minor * quantity,
        )
        for offer, quantity in lines
    )
    payment = payments.begin_payment(
        merchant_id=merchant_id,
        reference=order.number,
        customer=customer.id,
        amount_minor=total_minor,
        currency=order.currency,
        method=wish.method,
        payment_method=wish.payment_method,
        confirm=wish.confirm,
        credit_minor=wish.store_credit_minor,
    )
    begin = durability.hold_saga if hold else durability.start_saga
    started = begin("orders.checkout", key=order.number, payload={"payment": payment})
    durability.publish(
        OrderPlaced(order.number, str(merchant_id), customer.id, amount_minor=total_minor, currency=order.currency)
    )
    # Last: the shorter a hot product's row is locked, the more buyers get through.
    inventory.reserve(
        merchant_id=merchant_id,
        reference=order.number,
        lines=[Line(offer.id, offer.product, quantity) for offer, quantity in lines],
        by="checkout",
    )
    # After stock, as everywhere: accounts are locked last of all.
    payments.take_credit(payment, by="checkout")
    transaction.on_commit(partial(timer.arm, {order.number: order.expires_at}))
    return Placed(order.number, payment, started if isinstance(started, Lease) else None)


def check_store_credit(wish: PaymentWish, total_minor: int, *, param: str) -> None:
    """Raises StoreCreditExceedsTotal, and InvalidInput where store credit alone shall pay and does not suffice."""
    if wish.store_credit_minor > total_minor:
        raise StoreCreditExceedsTotal(
            f"The order costs {total_minor} (minor units): store credit covers at most that.", param=param
        )
    if wish.method == "store_credit" and wish.store_credit_minor < total_minor:
        raise InvalidInput(
            f"The order costs {total_minor} (minor units): name another method for what store credit does not cover.",
            param=param,
        )


def _merged(wanted: Sequence[Wanted], offers: dict[str, Offer]) -> list[tuple[Offer, int]]:
    quantities: dict[str, int] = {}
    for one in wanted:
        quantities[one.product] = quantities.get(one.product, 0) + one.quantity
    return [(offers[product], quantity) for product, quantity in quantities.items()]
