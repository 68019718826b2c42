"""Visits to the shop, and what the back-office does about orders afterwards. Every part may be repeated."""

from config.trading_day.client import Json
from config.trading_day.plan import Errand, Task, Visit
from config.trading_day.provider import Provider
from config.trading_day.shops import Shop

_DECLINED, _TOO_LATE = 402, 409
# After an interrupted load some orders that should have been paid have expired.
_NOTHING_TO_DO = ("pending", "cancelled")


def visit_shop(visit: Visit, *, shop: Shop, provider: Provider) -> str:
    """Check out and try to pay, as the plan says. Returns the order's number."""
    answer = _check_out(visit, shop)
    order, payment = answer["order"], answer["payment"]
    if order["status"] == "pending":
        if visit.wish.by_server:
            _pay_again(visit, shop, order["number"], payment)
        elif "client_secret" in payment:  # not in a replay, once the payment is past confirming
            _pay_in_browser(visit, provider, payment)
    return str(order["number"])


def _check_out(visit: Visit, shop: Shop) -> Json:
    return shop.storefront.post(
        "/checkout",
        {
            "customer": {"id": visit.customer.id, "email": visit.customer.email},
            "items": [{"product": isbn, "quantity": quantity} for isbn, quantity in visit.basket],
            "payment": _payment(visit.wish.cards[0]) if visit.wish.by_server else {"method": "card"},
        },
        key=f"trading-day-{visit.number}",
        also=(_DECLINED,),
    )


def _payment(card: str) -> Json:
    return {"method": "card", "payment_method": f"pm_card_{card}", "confirm": True}


def _pay_again(visit: Visit, shop: Shop, order: str, payment: Json) -> None:
    """After a decline of what we confirmed: a new payment with the customer's next card."""
    for place, card in enumerate(visit.wish.cards[1:], start=2):
        if payment["status"] != "failed":
            break
        key = f"trading-day-{visit.number}-card-{place}"
        path = f"/orders/{order}/payments"
        answer = shop.storefront.post(path, _payment(card), key=key, also=(_DECLINED, _TOO_LATE))
        if answer["status"] == _TOO_LATE:
            break
        payment = answer.get("payment", answer)


def _pay_in_browser(visit: Visit, provider: Provider, payment: Json) -> None:
    """The same intent takes one card after another; the webhook tells our side how it went."""
    for card in visit.wish.cards:
        status = provider.confirm(payment["client_secret"], card, visit.customer)
        if status == "requires_action":
            provider.authenticate(payment["provider_reference"], passed=visit.wish.authenticates)
        if status != "declined":
            return


def run_errand(errand: Errand, *, shop: Shop, order: str) -> str | None:
    """Ship, complete, refund or cancel a paid order. Returns the number of the refund that was asked for."""
    found = shop.operations.get(f"/orders/{order}")
    if found["status"] in _NOTHING_TO_DO:
        return None
    key = f"trading-day-{errand.visit}-{errand.task.replace(' ', '-')}"
    match errand.task:
        case Task.SHIP:
            parcel = {"carrier": "DHL", "tracking": f"JD0146{errand.visit:08}"}
            shop.operations.post(f"/orders/{order}/ship", parcel, key=key)
        case Task.COMPLETE:
            shop.operations.post(f"/orders/{order}/complete", key=key)
        case Task.CANCEL:
            shop.operations.post(f"/orders/{order}/cancel", key=key)
        case Task.REFUND_ONE:
            body = {"amount": found["items"][0]["unit_price"], "reason": "a copy arrived damaged"}
            return _refund(shop, found, body, key=key)
        case Task.REFUND_ALL:
            return _refund(shop, found, {"reason": "changed their mind within a week"}, key=key)
    return None


def _refund(shop: Shop, order: Json, body: Json, *, key: str) -> str:
    payment = next(payment["number"] for payment in order["payments"] if payment["status"] == "succeeded")
    return str(shop.operations.post(f"/payments/{payment}/refunds", body, key=key)["number"])
