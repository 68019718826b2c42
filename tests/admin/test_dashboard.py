"""The charts of the dashboard: sales by day, or by hour while the shop is new; and who sold how many."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from catalog.models import Merchant
from config.dashboard import CHART_DAYS, _chart, _shops
from orders.types import DaysSales
from payments.types import Hour

NOW = datetime(2026, 11, 21, 3, 20, tzinfo=UTC)


def drawn(*hours: Hour) -> tuple[list[str], list[Decimal], list[Decimal]]:
    chart = _chart(NOW, hours)
    assert chart is not None
    data = json.loads(chart["data"])
    sales, refunds = ([Decimal(value) for value in series["data"]] for series in data["datasets"])
    return data["labels"], sales, refunds


def test_days_are_drawn_with_what_was_sold_and_refunded_on_them():
    labels, sales, refunds = drawn(
        Hour(NOW.replace(minute=0) - timedelta(days=3, hours=1), "usd", 1000, 0),
        Hour(NOW.replace(minute=0) - timedelta(days=3), "usd", 250, 1),
        Hour(NOW.replace(minute=0), "usd", 500, 200),
    )
    assert len(labels) == CHART_DAYS
    assert (labels[-1], sales[-1], refunds[-1]) == ("21 Nov", Decimal(5), Decimal(2))
    assert (labels[-4], sales[-4], refunds[-4]) == ("18 Nov", Decimal("12.50"), Decimal("0.01"))
    assert sum(sales) == Decimal("17.50")


def test_a_new_shop_is_drawn_by_the_hour():
    labels, sales, _ = drawn(
        Hour(datetime(2026, 11, 20, 22, tzinfo=UTC), "usd", 100, 0), Hour(NOW.replace(minute=0), "usd", 300, 0)
    )
    assert labels == ["22:00", "23:00", "00:00", "01:00", "02:00", "03:00"]
    assert sales == [1, 0, 0, 0, 0, 3]


def test_the_currency_that_is_traded_most_is_drawn_in_its_own_units():
    _, sales, _ = drawn(Hour(NOW.replace(minute=0), "usd", 100, 0), Hour(NOW.replace(minute=0), "jpy", 700, 0))
    assert sales == [700]


def test_without_trade_there_is_no_chart():
    assert _chart(NOW, []) is None


@pytest.mark.django_db
def test_each_shop_has_its_bar_on_each_day_and_its_line_in_each_currency():
    busy, calm = (Merchant.objects.create(name=name, currency="usd").pk for name in ("Busy", "Calm"))
    today = NOW.date()
    since = today - timedelta(days=CHART_DAYS - 1)

    def day(shop: UUID, back: int, currency: str, *numbers: int) -> DaysSales:
        return DaysSales(shop, today - timedelta(days=back), currency, *numbers)

    chart, table = _shops(
        since,
        [
            day(calm, 0, "usd", 1, 900, 0, 0),
            day(busy, 0, "usd", 2, 3000, 1, 500),
            day(busy, 0, "jpy", 1, 700, 0, 0),
            day(busy, 13, "usd", 4, 6000, 0, 0),
        ],
    )
    assert chart is not None
    drawn_bars = {series["label"]: series["data"] for series in json.loads(chart["data"])["datasets"]}
    assert list(drawn_bars) == ["Busy", "Calm"]
    assert drawn_bars["Busy"] == [4, *[0] * 12, 3]
    assert drawn_bars["Calm"] == [*[0] * 13, 1]
    assert [(row[0], "$90.00" in str(row[2]), "¥700" in str(row[2])) for row in table.rows] == [
        ("Busy", True, False),
        ("Busy", False, True),
        ("Calm", False, False),
    ]


@pytest.mark.django_db
def test_without_shops_there_is_no_bar():
    chart, table = _shops(NOW.date(), [])
    assert (chart, table.rows) == (None, [])
