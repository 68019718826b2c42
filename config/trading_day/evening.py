"""The provider's books are made to differ; reconciliation finds it; a manager closes one of the differences."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from io import BytesIO
from typing import Any

from foundation.database import database_now
from reconciliation import selectors, services
from reconciliation.states import OPEN_STATES
from reconciliation.types import Action, Kind, RunReport

# kind → how often. Statuses first: a stray payment then belongs to an order whose own payment is left alone.
PLANTED = {
    "status_mismatch": 2,
    "missing_in_our_system": 2,
    "missing_in_stripe": 2,
    "amount_mismatch": 2,
    "missing_in_stripe_refund": 1,
    "missing_in_our_system_refund": 1,
    "amount_mismatch_refund": 1,
    "status_mismatch_refund": 1,
}
_BY = "day of trading"
_BY_HAND = "manager"  # who may repair
_NOTE = (
    "The customer sent Stripe's receipt: paid at 22:30, our webhook never came. Attached to the order, which ships now."
)


def reconcile(day: date) -> RunReport:
    """Compare the day's books with the provider's."""
    return services.reconcile_day(day=day, by=_BY)


def our_bank_tells(payouts: Sequence[Mapping[str, Any]]) -> None:
    """The bank's statement of today: what was paid out, a customer's transfer, and money of Stripe's that nothing explains."""
    if not payouts:
        return
    today = database_now().date()
    rows = [f"P{n},{one['amount']},Stripe,payout {one['trace_id']['value']}" for n, one in enumerate(payouts, start=1)]
    rows += ["T1,2500,Jane Doe,invoice 17", "S1,1234,Stripe,adjustment"]
    lines = (f"{today},DE89370400440532013000,usd,{row}\n" for row in rows)
    content = "booked_on,account,currency,reference,amount_minor,counterparty,text\n" + "".join(lines)
    services.import_bank_statement(file=BytesIO(content.encode()), name=f"bank-{today}.csv", by=_BY)


def close_one(order: str) -> None:
    """Create the payment that our books miss and attach it to its order, as a manager does it with one button."""
    for item in selectors.discrepancies_of(order):
        if item.kind == Kind.MISSING_IN_OUR_SYSTEM and item.state in OPEN_STATES:
            services.perform(discrepancy_id=item.id, action=Action.CREATE_MISSING_PAYMENT, by=_BY_HAND, note=_NOTE)


def closed(order: str) -> Counter[str]:
    """How many of an order's discrepancies are closed, by kind."""
    return Counter(item.kind for item in selectors.discrepancies_of(order) if item.closed_as)
