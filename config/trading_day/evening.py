"""The provider's books are made to differ; reconciliation finds it; a manager closes one of the differences."""

from collections import Counter
from datetime import date

from config.trading_day.finance import BY
from reconciliation import selectors, services
from reconciliation.states import OPEN_STATES
from reconciliation.types import Action, Kind, RunReport

# What is planted in the provider's books, in this order: kind → how often. Statuses first: a stray payment then belongs to an
# order whose own payment is left alone. What pays out comes last: no row changes that a payout has collected.
PLANTED = {
    Kind.STATUS_MISMATCH: 2,
    Kind.MISSING_IN_OUR_SYSTEM: 2,
    Kind.MISSING_IN_STRIPE: 2,
    Kind.AMOUNT_MISMATCH: 2,
    Kind.MISSING_IN_STRIPE_REFUND: 1,
    Kind.MISSING_IN_OUR_SYSTEM_REFUND: 1,
    Kind.AMOUNT_MISMATCH_REFUND: 1,
    Kind.STATUS_MISMATCH_REFUND: 1,
    Kind.CURRENCY_MISMATCH: 1,
    Kind.DUPLICATE_CHARGE: 1,
    Kind.FEE_VARIANCE: 3,
    Kind.DISPUTE_MISSING: 1,
    Kind.DISPUTE_UNEXPECTED: 1,
    Kind.FOREIGN_INSTANCE: 1,
    Kind.UNKNOWN_TYPE: 1,
    Kind.STATEMENT_RESIDUAL: 1,
    Kind.PAYOUT_DIFFERENCE: 1,
}
_BY_HAND = "manager"  # who may repair
_NOTE = (
    "The customer sent Stripe's receipt: paid at 22:30, our webhook never came. Attached to the order, which ships now."
)


def reconcile(day: date) -> RunReport:
    """Compare the day's books with the provider's."""
    return services.reconcile_day(day=day, by=BY)


def close_one(order: str) -> None:
    """Create the payment that our books miss and attach it to its order, as a manager does it with one button."""
    for item in selectors.discrepancies_of(order):
        if item.kind == Kind.MISSING_IN_OUR_SYSTEM and item.state in OPEN_STATES:
            services.perform(discrepancy_id=item.id, action=Action.CREATE_MISSING_PAYMENT, by=_BY_HAND, note=_NOTE)


def closed(order: str) -> Counter[str]:
    """How many of an order's discrepancies are closed, by kind."""
    return Counter(item.kind for item in selectors.discrepancies_of(order) if item.closed_as)
