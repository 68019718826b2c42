"""Payouts: their shape, and reading them. Nothing makes one yet."""

from payments.sandbox.account import Account, new_id
from payments.sandbox.calls import listing, retrieve
from payments.sandbox.store import Json


def build(account: Account, *, amount: int, currency: str, arrival_date: int) -> Json:
    """An automatic payout on its way to the bank; amount in minor units."""
    return {
        "id": new_id("po"),
        "object": "payout",
        "amount": amount,
        "application_fee": None,
        "application_fee_amount": None,
        "arrival_date": arrival_date,
        "automatic": True,
        "balance_transaction": None,
        "created": account.now(),
        "currency": currency,
        "description": "STRIPE PAYOUT",
        "destination": "ba_sandbox",
        "failure_balance_transaction": None,
        "failure_code": None,
        "failure_message": None,
        "livemode": False,
        "metadata": {},
        "method": "standard",
        "original_payout": None,
        "payout_method": None,
        "reconciliation_status": "in_progress",
        "reversed_by": None,
        "source_type": "card",
        "statement_descriptor": None,
        "status": "in_transit",
        "trace_id": None,
        "type": "bank_account",
    }


ROUTES = {
    ("GET", "/v1/payouts"): listing("payout", "status"),
    ("GET", "/v1/payouts/{id}"): retrieve("payout"),
}
