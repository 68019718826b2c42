"""Payment methods: cards only, from a test token or, as Stripe.js sends them, from a card's number."""

import hashlib

from payments.sandbox import cards, views
from payments.sandbox.account import Account, new_id
from payments.sandbox.calls import Call, Route, load
from payments.sandbox.cards import Card
from payments.sandbox.errors import InvalidParameter
from payments.sandbox.forms import Params
from payments.sandbox.store import Json

NO_ADDRESS = {"city": None, "country": None, "line1": None, "line2": None, "postal_code": None, "state": None}
NO_BILLING = {"address": NO_ADDRESS, "email": None, "name": None, "phone": None, "tax_id": None}


def build(account: Account, card: Card, billing: Json | None = None, object_id: str | None = None) -> Json:
    """A card's payment method; the private `_card` leads back to the test card. The number is not kept."""
    return {
        "id": object_id or new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": {**NO_BILLING, **(billing or {})},
        "card": {
            "brand": card.brand,
            "checks": {"address_line1_check": None, "address_postal_code_check": None, "cvc_check": "pass"},
            "country": "US",
            "display_brand": card.brand,
            "exp_month": 12,
            "exp_year": 2034,
            "fingerprint": hashlib.sha256(card.number.encode()).hexdigest()[:16],
            "funding": "debit" if card.name.endswith("_debit") else "credit",
            "generated_from": None,
            "last4": card.number[-4:],
            "networks": {"available": [card.brand], "preferred": None},
            "regulated_status": "unregulated",
            "three_d_secure_usage": {"supported": True},
            "wallet": None,
        },
        "created": account.now(),
        "customer": None,
        "customer_account": None,
        "livemode": False,
        "metadata": {},
        "type": "card",
        "_card": card.name,
    }


def card_of(method: Json) -> Card:
    return cards.by_name(method["_card"])


def from_params(account: Account, params: Params) -> Json | None:
    """The payment method that `payment_method` or `payment_method_data` names, stored; None when neither is given."""
    if "payment_method_data" in params:
        method = _from_data(account, params.mapping("payment_method_data"))
    elif "payment_method" in params:
        token = params.required("payment_method")
        card = cards.by_token(token)
        if card is None:
            return load(account, "payment_method", token, "payment_method")
        method = build(account, card)
    else:
        return None
    account.store.insert(method)
    return method


def _from_data(account: Account, data: Json) -> Json:
    if data.get("type") != "card":
        raise InvalidParameter("The sandbox takes cards only: type must be card.", param="payment_method_data[type]")
    given = data.get("card")
    if not isinstance(given, dict):
        raise InvalidParameter(
            "Missing required param: card.", code="parameter_missing", param="payment_method_data[card]"
        )
    if "token" in given:
        card = cards.from_token(str(given["token"]))
    else:
        card = cards.by_number(str(given.get("number", "")))
    billing = data.get("billing_details")
    method = build(account, card, _billing(billing) if isinstance(billing, dict) else None)
    for field in ("exp_month", "exp_year"):
        if str(given.get(field, "")).isdigit():
            method["card"][field] = int(given[field])
    return method


def _billing(given: Json) -> Json:
    known: Json = {name: given[name] for name in ("email", "name", "phone") if isinstance(given.get(name), str)}
    address = given.get("address")
    if isinstance(address, dict):
        known["address"] = {name: address.get(name) for name in NO_ADDRESS}
    return known


def _create(call: Call) -> Json:
    method = _from_data(call.account, call.params.values)
    method["metadata"] = call.params.metadata()
    call.account.store.insert(method)
    return views.present(call.account, method)


def _retrieve(call: Call) -> Json:
    card = cards.by_token(call.object_id)
    if card is not None:
        return views.present(call.account, build(call.account, card, object_id=call.object_id))
    return views.present(call.account, call.load("payment_method"))


ROUTES = {
    ("POST", "/v1/payment_methods"): Route(_create, {"type", "card", "billing_details", "metadata"}, publishable=True),
    ("GET", "/v1/payment_methods/{id}"): Route(_retrieve),
}
