"""Everything that writes: imports, runs, what they find, and what people do about it."""

from reconciliation.services.actions import perform
from reconciliation.services.news import (
    note_contradiction,
    note_late_failure,
    note_over_refunded,
    note_refund_contradiction,
    open_discrepancy,
)
from reconciliation.services.runs import reconcile_day, reconcile_missing_days, request_run

__all__ = [
    "note_contradiction",
    "note_late_failure",
    "note_over_refunded",
    "note_refund_contradiction",
    "open_discrepancy",
    "perform",
    "reconcile_day",
    "reconcile_missing_days",
    "request_run",
]
