"""What dashboards, metrics, pages and commands read about reconciliation."""

from collections.abc import Sequence
from datetime import date, timedelta

from django.conf import settings
from django.db.models import Count

from foundation.database import database_now
from payments import selectors as payments
from reconciliation.models import Discrepancy, ReconciliationRun
from reconciliation.states import OPEN_STATES, RunState
from reconciliation.types import KINDS


def days_without_a_run() -> list[date]:
    """Finished days, oldest first, that no completed run covers: of the last ones, and not before our first capture."""
    first = payments.first_capture_at()
    if first is None:
        return []
    today = database_now().date()
    candidates = [today - timedelta(days=back) for back in range(settings.RECONCILE_CATCH_UP_DAYS, 0, -1)]
    done = set(
        ReconciliationRun.objects.filter(date__in=candidates, state=RunState.COMPLETED, provisional=False).values_list(
            "date", flat=True
        )
    )
    return [day for day in candidates if day >= first.date() and day not in done]


def last_runs(count: int = 10) -> Sequence[ReconciliationRun]:
    """The newest runs, whatever became of them."""
    return list(ReconciliationRun.objects.order_by("-id")[:count])


def open_counts() -> dict[str, int]:
    """kind → how many discrepancies somebody has to look at; every kind is there, so that a gauge falls back to 0."""
    rows = Discrepancy.objects.filter(state__in=OPEN_STATES).values_list("kind").annotate(Count("pk"))
    return dict.fromkeys(KINDS, 0) | dict(rows)


def open_between(first: date, last: date) -> int:
    """How many open discrepancies (timing does not count) belong to some days, both included."""
    return Discrepancy.objects.filter(state__in=OPEN_STATES, business_date__range=(first, last)).count()
