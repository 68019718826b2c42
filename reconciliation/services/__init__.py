"""Everything that writes: imports, runs, what they find, and what people do about it."""

from reconciliation.services.actions import perform
from reconciliation.services.runs import reconcile_day, reconcile_missing_days, request_run

__all__ = ["perform", "reconcile_day", "reconcile_missing_days", "request_run"]
