"""What the provider's rows are: which categories make a charge, a refund, a dispute…, and where our books hold the like."""

from collections.abc import Mapping, Sequence
from typing import Final

from payments.selectors import CHARGES_VIEW, DISPUTES_VIEW, PAYOUT_MOVEMENTS_VIEW, REFUNDS_VIEW

# What the provider's reporting categories mean here (https://docs.stripe.com/reports/reporting-categories). `type` is not
# asked: an `adjustment` may be a dispute, its reversal, or a refund that failed.
CATEGORIES: Final[Mapping[str, Sequence[str]]] = {
    "charge": ["charge", "charge_failure", "partial_capture_reversal"],
    "refund": ["refund", "refund_failure"],
    "dispute": ["dispute", "dispute_reversal"],
    "payout": ["payout", "payout_reversal"],
    # What the provider takes for its services, apart from a movement: posted from its statement, the only voucher.
    "cost": ["fee", "network_cost", "tax"],
    # Rows that stand for themselves: nothing of ours moves such money, so a person takes each over.
    "adjustment": [
        "advance",
        "advance_funding",
        "anticipation_repayment",
        "climate_order_purchase",
        "climate_order_refund",
        "connect_collection_transfer",
        "connect_reserved_funds",
        "contribution",
        "other_adjustment",
        "platform_earning",
        "platform_earning_refund",
        "risk_reserved_funds",
        "topup",
        "topup_reversal",
        "transfer",
        "transfer_reversal",
    ],
}

PAIRED: Final = ("charge", "refund", "dispute", "payout")  # a row of theirs, and one of ours, by the object's id

COMES_BACK: Final = ("charge_failure", "refund_failure", "payout_reversal")  # later, of what had been booked before

KNOWN: Final = [category for of_kind in CATEGORIES.values() for category in of_kind]

MOVEMENT_VIEWS: Final[Mapping[str, str]] = {
    "charge": CHARGES_VIEW,
    "refund": REFUNDS_VIEW,
    "dispute": DISPUTES_VIEW,
    "payout": PAYOUT_MOVEMENTS_VIEW,
}

LINKED: Final = ("charge", "refund")  # what a person or a fuzzy rule can put together

# A row's object, by its category; rows that stand for themselves are their own source.
KIND = f"""CASE {
    " ".join(f"WHEN t.reporting_category = ANY(%({kind})s) THEN '{kind}'" for kind in CATEGORIES)
} ELSE 'other' END"""
