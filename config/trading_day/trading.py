"""Visits to the shop, and what the back-office does about orders afterwards. Every part may be repeated."""

from config.trading_day.client import Json
from config.trading_day.plan import Errand, Task, Visit
from config.trading_day.provider import Provider
from config.trading_day.shops import Shop

_DECLINED = 402


def visit_shop(visit: Visit, *, shop: Shop, provider: Provider) -> str:
    """Check out and try to pay, as the plan says. Returns the order's number."""
    answer = _check_out(visit, shop)
    order, payment = answer["order"], answer["payment"]
    if order["status"] == "pending":
        if visit.wish.by_server:
            payment = _pay_again(visit, shop, order["number"], payment)
        elif payment["status"] in ("pending", "requires_action"):
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


def _pay_again(visit: Visit, shop: Shop, order: str, payment: Json) -> Json:
    """After a decline of what we confirmed: a new payment with the customer's next card."""
    for place, card in enumerate(visit.wish.cards[1:], start=2):
        if payment["status"] != "failed":
            break
        key = f"trading-day-{visit.number}-card-{place}"
        answer = shop.storefront.post(f"/orders/{order}/payments", _payment(card), key=key, also=(_DECLINED,))
        payment = answer.get("payment", answer)
    return payment


def _pay_in_browser(visit: Visit, provider: Provider, payment: Json) -> None:
    """The same intent takes one card after another; the webhook tells our side how it went."""
    for card in visit.wish.cards:
        status = provider.confirm(payment["client_secret"], card, visit.customer)
        if status == "requires_action":
            provider.authenticate(payment["provider_reference"], passed=visit.wish.authenticates)
        if status != "declined":
            return


def run_errand(errand: Errand, *, shop: Shop, order: str) -> None:
    """Ship, complete, refund or cancel a paid order."""
    key = f"trading-day-{errand.visit}-{errand.task.replace(' ', '-')}"
    match errand.task:
        case Task.SHIP:
            parcel = {"carrier": "DHL", "tracking": f"JD0146{errand.visit:08}"}
            shop.operations.post(f"/orders/{order}/ship", parcel, key=key)
        case Task.COMPLETE:
            shop.operations.post(f"/orders/{order}/complete", key=key)
        case Task.CANCEL:
            shop.operations.post(f"/orders/{order}/cancel", key=key)
        case Task.REFUND_ONE | Task.REFUND_ALL:
            _refund(shop, order, key=key, one_copy=errand.task is Task.REFUND_ONE)


def _refund(shop: Shop, number: str, *, key: str, one_copy: bool) -> None:
    order = shop.operations.get(f"/orders/{number}")
    payment = next(payment["number"] for payment in order["payments"] if payment["status"] == "succeeded")
    reason = "one copy arrived damaged" if one_copy else "changed their mind within a week"
    body = {"reason": reason, **({"amount": order["items"][0]["unit_price"]} if one_copy else {})}
    shop.operations.post(f"/payments/{payment}/refunds", body, key=key)
