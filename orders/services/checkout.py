"""Checkout's first commit: price the cart, then place the order, record the payment's intent and reserve the stock.

Everything that decides stands here: what is offered at which price, whether it can be paid so, what follows. Everything
that is written is one statement, the function `orders_place_order` in PostgreSQL (migration 0007), and that statement is
the whole transaction: the idempotency key, order, items, payment, saga, news and reservation, or nothing.
docs/decisions/0020 says what this is worth.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from catalog import selectors as catalog
from catalog.types import Cart, Offer
from durability import services as durability
from durability.types import Answer, Claimed, Fingerprint, Lease
from foundation import redis
from foundation.database import in_transaction, prepared_cursor, tried_again
from foundation.errors import DomainError, InvalidInput
from foundation.ids import public_id, uuid7
from inventory import services as inventory
from inventory.types import Line
from orders import timer
from orders.errors import CurrencyMixed, NothingToPay, ProductNotFound
from orders.events import OrderPlaced
from orders.models import Order
from orders.states import OrderStatus
from orders.types import Customer, ItemView, OrderView, PaymentWish, Wanted
from payments import services as payments
from payments.errors import StoreCreditExceedsTotal
from payments.types import PlannedPayment

_PLACE_ORDER = """
SELECT outcome, key_id, short::text FROM orders_place_order(
    claim => %(claim)s, placed => %(placed)s, payment => %(payment)s, saga => %(saga)s, news => %(news)s,
    reservation => %(reservation)s
)
"""


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of the key: its order (`claimed.subject`) is new, or that of an earlier request.

    `payment` is the new payment's number; `lease` lets the same request go on with the second commit.
    """

    claimed: Claimed
    payment: str = ""
    lease: Lease | None = None


def place_order(
    *,
    merchant_id: UUID,
    claim: Fingerprint,
    customer: Customer,
    wanted: Sequence[Wanted],
    wish: PaymentWish,
    hold: bool,
    answer: Callable[[OrderView], Answer] | None = None,
) -> Placed:
    """Place an order under an idempotency key, once: all of it commits, or nothing, in a transaction of its own.

    With `hold` the caller opens the payment itself right afterwards; without it a worker does. `answer` makes the final
    answer from the order as it is placed, to be stored with it; it is not asked where store credit pays a part.

    Raises ProductNotFound, CurrencyMixed, NothingToPay, StoreCreditExceedsTotal, InsufficientStock,
    StoreCreditInsufficient, IdempotencyKeyReused.
    """
    try:
        plan = _plan(merchant_id=merchant_id, customer=customer, wanted=wanted, wish=wish, hold=hold)
    except DomainError:
        earlier = durability.earlier_use(claim)
        if earlier is None:
            raise
        return Placed(earlier)
    if wish.store_credit_minor:
        return in_transaction(partial(_place_with_credit, plan, claim))
    return tried_again(partial(_place, plan, claim, answer and answer(plan.order)))


@dataclass(frozen=True, slots=True)
class _Plan:
    """An order that is about to be placed: how it will look, and the records of what is written beside it."""

    order: OrderView
    lines: Sequence[Line]
    payment: PlannedPayment
    saga: Mapping[str, Any]
    lease: Lease | None
    news: Mapping[str, Any]


def _plan(*, merchant_id: UUID, customer: Customer, wanted: Sequence[Wanted], wish: PaymentWish, hold: bool) -> _Plan:
    """Decide everything; write nothing. Raises all that `place_order` does, but for what stock and credit refuse."""
    cart = catalog.get_cart(merchant_id=merchant_id, products=[one.product for one in wanted])
    offers = _merged(wanted, cart)
    total_minor = _total(offers)
    check_store_credit(wish, total_minor, param="payment.store_credit")
    order_id, currency = uuid7(), offers[0][0].currency
    number = public_id(Order.PREFIX, order_id)
    payment = payments.plan_payment(
        merchant_id=merchant_id,
        reference=number,
        customer=customer.id,
        amount_minor=total_minor,
        currency=currency,
        method=wish.method,
        payment_method=wish.payment_method,
        confirm=wish.confirm,
        credit_minor=wish.store_credit_minor,
        at=cart.priced_at,
    )
    saga, lease = durability.saga_record("orders.checkout", key=number, payload={"payment": payment.number}, hold=hold)
    placed = OrderPlaced(number, str(merchant_id), customer.id, amount_minor=total_minor, currency=currency)
    order = OrderView(
        id=order_id,
        number=number,
        merchant_id=merchant_id,
        status=OrderStatus.PENDING,
        refund_status="none",
        dispute="",
        customer=customer,
        currency=currency,
        total_minor=total_minor,
        items=[
            ItemView(offer.product, offer.title, quantity, offer.price_minor, offer.price_minor * quantity)
            for offer, quantity in offers
        ],
        payments=[payment.view],
        carrier="",
        tracking="",
        expires_at=cart.expires_at,
        created_at=cart.priced_at,
        paid_at=None,
    )
    lines = [Line(offer.id, offer.product, quantity) for offer, quantity in offers]
    return _Plan(order, lines, payment, saga, lease, durability.news_record([placed]))


def _place(plan: _Plan, claim: Fingerprint, answer: Answer | None) -> Placed:
    order = plan.order
    written = records(plan, claim, answer)
    with prepared_cursor() as cursor:
        cursor.execute(_PLACE_ORDER, {name: json.dumps(record) for name, record in written.items()})
        outcome, key_id, short = cursor.fetchone()
    if outcome == "short":
        raise inventory.shortage(json.loads(short), lines=plan.lines)
    if outcome != "placed":
        return Placed(durability.used_key(claim))
    redis.after_commit(
        timer.arming({order.number: order.expires_at}), *durability.wakings(saga=plan.saga, news=plan.news)
    )
    return Placed(Claimed(key_id, True, order.number, answer), plan.payment.number, plan.lease)


def _place_with_credit(plan: _Plan, claim: Fingerprint) -> Placed:
    """The same, in a transaction with what takes the store credit: accounts are locked last of all, after stock."""
    placed = _place(plan, claim, None)
    if placed.claimed.is_new:
        payments.take_credit(placed.payment, by="checkout")
    return placed


def records(plan: _Plan, claim: Fingerprint, answer: Answer | None) -> dict[str, Any]:
    """What `orders_place_order` takes: a document for each app that writes."""
    order = plan.order
    return {
        "claim": durability.claim_record(claim, subject=order.number, answer=answer),
        "placed": _order_record(order, plan.lines),
        "payment": plan.payment.record,
        "saga": plan.saga,
        "news": plan.news,
        "reservation": inventory.reservation_record(
            merchant_id=order.merchant_id, reference=order.number, lines=plan.lines, by="checkout"
        ),
    }


def _order_record(order: OrderView, lines: Sequence[Line]) -> dict[str, Any]:
    """An order with its items, as `orders_place_order` takes them."""
    return {
        "id": str(order.id),
        "merchant_id": str(order.merchant_id),
        "customer": order.customer.id,
        "email": order.customer.email,
        "phone": order.customer.phone,
        "currency": order.currency,
        "total_minor": order.total_minor,
        "expires_at": order.expires_at.isoformat(),
        "created_at": order.created_at.isoformat(),
        "items": [
            {
                "product_id": str(line.product_id),
                "product": item.product,
                "title": item.title,
                "quantity": item.quantity,
                "unit_price_minor": item.unit_price_minor,
                "amount_minor": item.amount_minor,
            }
            for line, item in zip(lines, order.items, strict=True)
        ],
    }


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


def _merged(wanted: Sequence[Wanted], cart: Cart) -> list[tuple[Offer, int]]:
    """Offers and quantities, with the lines of one product merged. Raises ProductNotFound."""
    quantities: dict[str, int] = {}
    for index, one in enumerate(wanted):
        if one.product not in cart.offers:
            raise ProductNotFound(param=f"items[{index}].product")
        quantities[one.product] = quantities.get(one.product, 0) + one.quantity
    return [(cart.offers[product], quantity) for product, quantity in quantities.items()]


def _total(offers: Sequence[tuple[Offer, int]]) -> int:
    """In minor units. Raises CurrencyMixed, NothingToPay."""
    if len({offer.currency for offer, _ in offers}) > 1:
        raise CurrencyMixed(param="items")
    total_minor = sum(offer.price_minor * quantity for offer, quantity in offers)
    if total_minor <= 0:
        raise NothingToPay(param="items")
    return total_minor
