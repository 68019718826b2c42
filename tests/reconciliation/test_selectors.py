"""What the desk and the metrics read."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from foundation.database import database_now
from foundation.errors import NotFound
from foundation.ids import uuid7
from reconciliation import selectors, services
from reconciliation.models import Discrepancy
from reconciliation.services import runs
from reconciliation.types import KINDS, Kind
from tests.reconciliation.ledgers import our_refund, ours, theirs

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch):
    """Noon of yesterday, and a way to run days back from it over the rows that are there."""
    monkeypatch.setattr(runs, "import_day", lambda day, progress: 0)
    monkeypatch.setattr(runs, "_ask", lambda day: [])
    today = database_now().replace(hour=0, minute=0, second=0, microsecond=0)
    return today - timedelta(hours=12)


def reconcile(noon, *days_back: int) -> None:
    for back in days_back:
        services.reconcile_day(day=(noon - timedelta(days=back)).date(), by="test")


def test_the_backlog_is_told_by_kind_currency_and_age(noon):
    ours("ch_1", 100, at=noon)  # yesterday
    ours("ch_2", 200, at=noon - timedelta(days=4), currency="eur")
    ours("ch_3", 300, at=noon - timedelta(days=40))
    theirs("ch_4", 1000, at=noon)
    payment = ours("ch_5", 1000, at=noon)
    theirs("ch_5", 999, at=noon)
    our_refund(payment, "re_1", 10, at=noon)
    ours("ch_6", 77, at=noon, currency="eur")
    theirs("ch_6", 88, at=noon)
    reconcile(noon, 0, 4, 40)
    Discrepancy.objects.filter(source="re_1").update(
        state="resolved", closed_as="accepted", resolved_at=database_now(), resolved_by="x"
    )
    with CaptureQueriesContext(connection) as captured:
        backlog = {row.kind: row for row in selectors.open_by_kind()}
    assert len(captured) == 2  # the clock, and one for all
    missing = backlog[Kind.MISSING_IN_STRIPE]
    assert (missing.total.count, missing.total.value) == (3, {"usd": 400, "eur": 200})
    assert {age: pile.count for age, pile in missing.ageing.items()} == {
        "0–1": 1,
        "2–3": 0,
        "4–7": 1,
        "8–30": 0,
        ">30": 1,
    }
    assert missing.ageing[">30"].value == {"usd": 300}
    assert backlog[Kind.AMOUNT_MISMATCH].total.value == {"usd": 1}
    assert backlog[Kind.CURRENCY_MISMATCH].total.value == {"usd": 88}
    assert Kind.MISSING_IN_STRIPE_REFUND not in backlog
    counts = selectors.open_counts()
    assert counts.keys() == KINDS.keys()
    assert (counts[Kind.MISSING_IN_STRIPE], counts[Kind.MISSING_IN_STRIPE_REFUND]) == (3, 0)


def test_the_last_runs_come_newest_first(noon):
    reconcile(noon, 2, 1, 0)
    assert [run.date for run in selectors.last_runs(2)] == [noon.date(), (noon - timedelta(days=1)).date()]


def test_a_page_that_does_not_exist_is_not_found(noon):
    with pytest.raises(NotFound):
        selectors.discrepancy_page(uuid7())


def test_a_stray_that_names_an_order_of_nobody_has_a_page_all_the_same(noon):
    theirs("ch_1", at=noon, metadata={"order": "ord_nobody", "instance": "everycent"})
    reconcile(noon, 0)
    page = selectors.discrepancy_page(Discrepancy.objects.get().pk)
    assert page.order is None
    assert page.age_days == 1
    assert [row.source for row in page.transactions] == ["ch_1"]
