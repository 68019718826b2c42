"""Closed months, written by hand: January 2026 begins with its last day, so that one run is enough to close it."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.contrib.auth.models import Group, User

from payments.models import Payment
from reconciliation import books, services
from reconciliation.models import PeriodClosing, ReconciliationRun
from reconciliation.types import RunReport
from tests.reconciliation.ledgers import both, theirs
from tests.reconciliation.test_statements import capture, was_read

JANUARY, FEBRUARY, MARCH = date(2026, 1, 1), date(2026, 2, 1), date(2026, 3, 1)
LAST = datetime(2026, 1, 31, tzinfo=UTC)  # a day
NOON = LAST + timedelta(hours=12)

Reconcile = Callable[..., RunReport]


def close(period: date = JANUARY, **options: Any) -> PeriodClosing:
    """Of books that came as files: nobody asked the provider what it holds."""
    is_provable()
    given = {"period": period, "by": "maria", "note": "month's end", "without_balance": True, **options}
    return services.close_period(**given)


def is_provable() -> None:
    """All that the provider booked was read, and our ledger has what our payments say."""
    begin = books.first_day()
    if begin:
        was_read(datetime.combine(begin, time(), UTC), datetime(2026, 6, 1, tzinfo=UTC))
        for payment in Payment.objects.filter(status="succeeded", captured_at__date__gte=begin):
            capture(payment)


def closed_january(reconcile: Reconcile) -> PeriodClosing:
    """One charge of 15.00, of which the provider keeps 0.74, in both books."""
    both("ch_1", at=NOON)
    reconcile(LAST)
    return close()


def reopened(period: date = JANUARY) -> None:
    services.ask_reopening(period=period, by="maria", why="a row came late")
    services.approve_reopening(period=period, by="paul", why="I have seen it")


def late_charge(reconcile: Reconcile, source: str = "ch_late", **fields: Any) -> str:
    """A charge of January that only the provider knows, told after the month was closed."""
    row = theirs(source, 4000, at=NOON, **fields)
    reconcile(LAST)
    return row


def as_reconciled(first: date, last: date) -> None:
    """Runs of days on which nothing was booked."""
    days = [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
    at = datetime(2026, 4, 1, tzinfo=UTC)
    ReconciliationRun.objects.bulk_create(
        ReconciliationRun(
            date=day,
            provisional=False,
            state="completed",
            by="test",
            started_at=at,
            lease_until=at,
            finished_at=at,
            duration_ms=0,
        )
        for day in days
    )


def member(name: str, role: str) -> str:
    """A member of staff; the name."""
    user = User.objects.create(username=name, is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    return name
