"""The chart of the dashboard: days, or hours while the shop is new."""

import json
from datetime import UTC, datetime, timedelta

from config.dashboard import CHART_DAYS, _chart
from payments.types import Hour

NOW = datetime(2026, 11, 21, 3, 20, tzinfo=UTC)


def drawn(*hours: Hour) -> tuple[list[str], list[float], list[float]]:
    chart = _chart(NOW, hours)
    assert chart is not None
    data = json.loads(chart["data"])
    return data["labels"], *(series["data"] for series in data["datasets"])


def test_days_are_drawn_with_what_was_sold_and_refunded_on_them():
    labels, sales, refunds = drawn(
        Hour(NOW.replace(minute=0) - timedelta(days=3, hours=1), "usd", 1000, 0),
        Hour(NOW.replace(minute=0) - timedelta(days=3), "usd", 250, 1),
        Hour(NOW.replace(minute=0), "usd", 500, 200),
    )
    assert len(labels) == CHART_DAYS
    assert (labels[-1], sales[-1], refunds[-1]) == ("21 Nov", 5.0, 2.0)
    assert (labels[-4], sales[-4], refunds[-4]) == ("18 Nov", 12.5, 0.01)
    assert sum(sales) == 17.5


def test_a_new_shop_is_drawn_by_the_hour():
    labels, sales, _ = drawn(
        Hour(datetime(2026, 11, 20, 22, tzinfo=UTC), "usd", 100, 0), Hour(NOW.replace(minute=0), "usd", 300, 0)
    )
    assert labels == ["22:00", "23:00", "00:00", "01:00", "02:00", "03:00"]
    assert sales == [1.0, 0, 0, 0, 0, 3.0]


def test_the_currency_that_is_traded_most_is_drawn_in_its_own_units():
    _, sales, _ = drawn(Hour(NOW.replace(minute=0), "usd", 100, 0), Hour(NOW.replace(minute=0), "jpy", 700, 0))
    assert sales == [700.0]


def test_without_trade_there_is_no_chart():
    assert _chart(NOW, []) is None
