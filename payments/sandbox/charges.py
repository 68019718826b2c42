"""Charges: one attempt to take money each, made by confirming a payment intent."""

from payments.sandbox import balance, payment_methods
from payments.sandbox.account import Account, new_id
from payments.sandbox.calls import listing, retrieve
from payments.sandbox.cards import FRAUDULENT, Decline
from payments.sandbox.events import emit
from payments.sandbox.store import Json


def build(account: Account, intent: Json, method: Json, decline: Decline | None = None) -> Json:
    """A charge of the intent's whole amount: captured, or failed with `decline`."""
    charge_id = new_id("ch")
    paid = decline is None
    card = method["card"]
    return {
        "id": charge_id,
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": intent["amount"] if paid else 0,
        "amount_refunded": 0,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "balance_transaction": None,
        "billing_details": method["billing_details"],
        "calculated_statement_descriptor": "EVERYCENT SANDBOX" if paid else None,
        "captured": paid,
        "created": account.now(),
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": decline.code if decline else None,
        "failure_message": decline.message if decline else None,
        "fraud_details": {},
        "livemode": False,
        "metadata": intent["metadata"],
        "on_behalf_of": None,
        "outcome": _outcome(decline),
        "paid": paid,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": {
            "card": {
                "amount_authorized": intent["amount"] if paid else None,
                "authorization_code": charge_id[-6:].upper() if paid else None,
                "brand": card["brand"],
                "checks": card["checks"],
                "country": card["country"],
                "exp_month": card["exp_month"],
                "exp_year": card["exp_year"],
                "extended_authorization": {"status": "disabled"},
                "fingerprint": card["fingerprint"],
                "funding": card["funding"],
                "incremental_authorization": {"status": "unavailable"},
                "installments": None,
                "last4": card["last4"],
                "mandate": None,
                "multicapture": {"status": "unavailable"},
                "network": card["brand"],
                "network_token": {"used": False},
                "network_transaction_id": charge_id[-15:] if paid else None,
                "overcapture": {"maximum_amount_capturable": intent["amount"], "status": "unavailable"},
                "regulated_status": card["regulated_status"],
                "three_d_secure": None,
                "transaction_link_id": None,
                "wallet": None,
            },
            "type": "card",
        },
        "receipt_email": intent["receipt_email"],
        "receipt_number": None,
        "receipt_url": f"https://pay.stripe.com/receipts/{charge_id}" if paid else None,
        "refunded": False,
        "refunds": {"object": "list", "data": [], "has_more": False, "url": f"/v1/charges/{charge_id}/refunds"},
        "review": None,
        "shipping": intent["shipping"],
        "source": None,
        "source_transfer": None,
        "statement_descriptor": None,
        "statement_descriptor_suffix": None,
        "status": "succeeded" if paid else "failed",
        "transfer_data": None,
        "transfer_group": None,
    }


def _outcome(decline: Decline | None) -> Json:
    outcome: Json = {
        "advice_code": None,
        "network_advice_code": None,
        "network_decline_code": None,
        "network_status": "approved_by_network",
        "reason": None,
        "risk_level": "normal",
        "risk_score": 20,
        "seller_message": "Payment complete.",
        "type": "authorized",
    }
    if decline == FRAUDULENT:
        outcome |= {"network_status": "not_sent_to_network", "reason": "highest_risk_level", "risk_level": "highest",
                    "risk_score": 90, "seller_message": "Stripe blocked this payment as too risky.", "type": "blocked"}  # fmt: skip
    elif decline is not None:
        outcome |= {"advice_code": "try_again_later", "network_decline_code": "05",
                    "network_status": "declined_by_network", "reason": decline.decline_code,
                    "seller_message": "The bank returned the decline code `" + decline.decline_code + "`.",
                    "type": "issuer_declined"}  # fmt: skip
    return outcome


def succeed(account: Account, intent: Json, method: Json, *, settle_after_s: float = 0.0) -> Json:
    """A captured charge. Its balance transaction comes with it, or later, as Stripe's asynchronous capture does it."""
    charge = build(account, intent, method)
    if settle_after_s <= 0:
        charge["balance_transaction"] = balance.record_charge(account, charge)["id"]
    else:
        account.later("settle", charge["id"], settle_after_s)
    account.store.insert(charge)
    emit(account, "charge.succeeded", charge)
    if payment_methods.card_of(method).dispute and not account.silent:
        account.later("dispute", charge["id"], account.config.news_after_s)
    return charge


def fail(account: Account, intent: Json, method: Json, decline: Decline) -> Json:
    charge = build(account, intent, method, decline)
    account.store.insert(charge)
    emit(account, "charge.failed", charge)
    return charge


def settle(account: Account, charge_id: str) -> None:
    """The job after an asynchronous capture: the balance transaction appears, `charge.updated` tells of it."""
    charge = account.store.get("charge", charge_id)
    if charge is None or charge["balance_transaction"] is not None:
        return
    charge["balance_transaction"] = balance.record_charge(account, charge)["id"]
    account.store.update(charge)
    emit(account, "charge.updated", charge, {"balance_transaction": None})


ROUTES = {
    ("GET", "/v1/charges"): listing("charge", "customer", "payment_intent"),
    ("GET", "/v1/charges/{id}"): retrieve("charge"),
}
