"""The desk's first page: today, the differences and their age, the runs, the machinery. Reads through selectors alone."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from catalog import selectors as catalog
from durability import selectors as durability
from foundation import cells, numbers
from foundation.database import database_now
from foundation.money import plain_major
from foundation.sections import Cell, Facts, Table
from inventory import selectors as inventory
from orders import selectors as orders
from orders.types import DaysSales
from payments import selectors as payments
from payments.types import Hour, Total
from reconciliation import selectors as reconciliation
from reconciliation.types import AGE_BUCKETS, KindBacklog, Pile, Severity

CHART_DAYS = 14
CHART_HOURS = 36  # a shop that is younger than this is shown by the hour
SALES, REFUNDS = "#4f46e5", "#f59e0b"
# A shop keeps its place, not its colour: the busiest has the first.
SHOP_COLOURS = ("#4f46e5", "#0ea5e9", "#14b8a6", "#f59e0b", "#94a3b8")
SHOPS_SHOWN = len(SHOP_COLOURS)
RUNS_SHOWN = 8
STUCK_SHOWN = 5
_SEVERITY: dict[str, cells.Tone] = {Severity.HIGH: "bad", Severity.MEDIUM: "warn", Severity.LOW: "quiet"}
# The buckets of ageing as the list's filter spells them in its address.
_AGE_IN_ADDRESS = {name: name.replace("–", "-").replace(">30", "over+30") for _, name in AGE_BUCKETS}


@dataclass(frozen=True, slots=True)
class Figure:
    """One card at the top: a name, one large value (or one a currency), a line below, and where it leads."""

    name: str
    icon: str
    values: Sequence[Cell]
    note: Cell
    url: str
    tone: str = ""  # alarm, well, or nothing


def fill(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Unfold's dashboard callback: whatever this person may see of it."""
    may = request.user.has_perm
    now = database_now().astimezone(UTC)
    midnight = datetime.combine(now.date(), time(), UTC)
    figures: list[Figure] = []
    context |= {"title": "Dashboard", "figures": figures}
    if may("payments.view_payment"):
        sales, refunds = payments.captured_between(midnight, now), payments.refunded_between(midnight, now)
        figures.append(_traded("Sales today", "payments", sales, "payment", "payments_payment"))
        figures.append(_traded("Refunds today", "undo", refunds, "refund", "payments_refund"))
        context["chart"] = _chart(now, payments.traded_by_hour(midnight - timedelta(days=CHART_DAYS - 1), now))
    if may("orders.view_order"):
        since = now.date() - timedelta(days=CHART_DAYS - 1)
        context["shops"], context["shops_table"] = _shops(since, orders.daily_sales(since=since, limit=SHOPS_SHOWN))
    if may("inventory.view_stock"):
        figures.append(_low_stock(inventory.low_stock_count()))
    if may("reconciliation.view_discrepancy"):
        backlog = reconciliation.open_by_kind()
        figures.append(_differences(backlog))
        context["backlog"] = _backlog(backlog)
        context["runs"] = _runs(request, reconciliation.last_runs(RUNS_SHOWN))
    if may("durability.view_sagarun"):
        figure, context["machinery"] = _machinery(request)
        figures.append(figure)
    return context


def _list(name: str, query: str = "") -> str:
    return reverse(f"admin:{name}_changelist") + query


# --- Today ------------------------------------------------------------------------------------------


def _traded(name: str, icon: str, totals: Sequence[Total], unit: str, model: str) -> Figure:
    count = sum(total.count for total in totals)
    return Figure(
        name,
        icon,
        [cells.money(total.amount_minor, total.currency) for total in totals] or [cells.NOTHING],
        note=f"{count or 'No'} {unit}{'' if count == 1 else 's'} since 00:00 UTC",
        url=_list(model, "?status=succeeded"),
    )


def _chart(now: datetime, hours: Sequence[Hour]) -> dict[str, Any] | None:
    """Sales and refunds in the currency that was traded most: by day, or by hour while the shop is new."""
    traded: Counter[str] = Counter()
    for hour in hours:
        traded[hour.currency] += hour.captured_minor + hour.refunded_minor
    if not traded:
        return None
    currency = traded.most_common(1)[0][0]
    mine = [hour for hour in hours if hour.currency == currency]
    step, slots, label = _slots(mine, now)
    ins, outs = dict.fromkeys(slots, 0), dict.fromkeys(slots, 0)
    for hour in mine:
        slot = hour.at.replace(hour=0) if step.days else hour.at
        ins[slot] += hour.captured_minor
        outs[slot] += hour.refunded_minor
    bar = {"borderRadius": 3, "categoryPercentage": 0.8, "barPercentage": 0.95, "maxBarThickness": 34}
    data = {
        "labels": [f"{slot:{label}}" for slot in slots],
        "datasets": [
            {
                "label": "Sales",
                "data": [plain_major(value, currency) for value in ins.values()],
                "backgroundColor": SALES,
                **bar,
            },
            {
                "label": "Refunds",
                "data": [plain_major(value, currency) for value in outs.values()],
                "backgroundColor": REFUNDS,
                **bar,
            },
        ],
    }
    total = f"Sales {numbers.show(sum(ins.values()), currency)}, refunds {numbers.show(sum(outs.values()), currency)}"
    return {
        "title": f"Sales and refunds, {f'last {CHART_DAYS} days' if step.days else f'by hour since {slots[0]:%d %B}'}",
        "says": total,
        "legend": [("Sales", SALES), ("Refunds", REFUNDS)],
        "data": json.dumps(data),
        "options": json.dumps(_chart_options(currency.upper())),
    }


def _slots(hours: Sequence[Hour], now: datetime) -> tuple[timedelta, list[datetime], str]:
    """The bars of the chart: their width, where each begins, and how they are labelled.

    Days, as long as the shop has traded for a few; for a shop that has just opened, the hours since it did.
    """
    first = hours[0].at
    if now - first > timedelta(hours=CHART_HOURS):
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        days = [midnight - timedelta(days=back) for back in reversed(range(CHART_DAYS))]
        return timedelta(days=1), days, "%d %b"
    count = int((now - first) / timedelta(hours=1)) + 1
    return timedelta(hours=1), [first + timedelta(hours=number) for number in range(count)], "%H:00"


def _chart_options(unit: str) -> dict[str, Any]:
    """In place of Unfold's own, which draw hair-thin bars and no Y axis."""
    faint = {"color": "#94a3b8", "font": {"size": 11}}
    return {
        "animation": False,
        "responsive": True,
        "maintainAspectRatio": False,
        "plugins": {"legend": {"display": False}},
        "scales": {
            "x": {"grid": {"display": False}, "border": {"display": False}, "ticks": {**faint, "maxRotation": 0}},
            "y": {
                "beginAtZero": True,
                "grid": {"lineWidth": 0.6},
                "border": {"display": False},
                "ticks": {**faint, "maxTicksLimit": 6},
                "title": {"display": True, "text": unit, **faint},
            },
        },
    }


# --- The shops --------------------------------------------------------------------------------------


def _shops(since: date, days: Sequence[DaysSales]) -> tuple[dict[str, Any] | None, Table]:
    """The busiest shops: their paid orders day by day as stacked bars, and what they come to as a table."""
    names = catalog.merchant_names({day.merchant_id for day in days})
    sold: dict[UUID, Counter[date]] = {}
    totals: dict[tuple[UUID, str], list[int]] = {}
    for day in days:
        sold.setdefault(day.merchant_id, Counter())[day.date] += day.orders_paid
        total = totals.setdefault((day.merchant_id, day.currency), [0, 0, 0, 0, 0])
        for place, value in enumerate(
            (day.orders_paid, day.revenue_minor, day.refunds, day.refunded_minor, day.points)
        ):
            total[place] += value
    busiest = sorted(sold, key=lambda shop: (-sold[shop].total(), str(shop)))
    rows: list[list[Cell]] = [
        [
            names.get(shop, str(shop)),
            cells.number(paid),
            cells.money(revenue, currency),
            cells.number(refunds),
            cells.money(refunded, currency),
            cells.number(points),
        ]
        for (shop, currency), (paid, revenue, refunds, refunded, points) in sorted(
            totals.items(), key=lambda entry: (busiest.index(entry[0][0]), -entry[1][0], entry[0][1])
        )
    ]
    table = Table(
        f"Shops, last {CHART_DAYS} days",
        ["Shop", *(cells.right(name) for name in ("Orders paid", "Revenue", "Refunds", "Refunded", "Points"))],
        rows,
        empty="Nothing was sold in the last two weeks.",
    )
    return (_shops_chart(since, {names.get(shop, str(shop)): sold[shop] for shop in busiest}) if sold else None), table


def _shops_chart(since: date, sold: Mapping[str, Counter[date]]) -> dict[str, Any]:
    dates = [since + timedelta(days=number) for number in range(CHART_DAYS)]
    colours = dict(zip(sold, SHOP_COLOURS, strict=False))
    bar = {"categoryPercentage": 0.8, "barPercentage": 0.95, "maxBarThickness": 34}
    data = {
        "labels": [f"{day:%d %b}" for day in dates],
        "datasets": [
            {"label": name, "data": [counts[day] for day in dates], "backgroundColor": colours[name], **bar}
            for name, counts in sold.items()
        ],
    }
    options = _chart_options("orders")
    for axis in options["scales"].values():
        axis["stacked"] = True
    options["scales"]["y"]["ticks"]["precision"] = 0
    return {
        "title": f"Orders paid by shop, last {CHART_DAYS} days",
        "says": ", ".join(f"{name} {counts.total()}" for name, counts in sold.items()),
        "legend": list(colours.items()),
        "data": json.dumps(data),
        "options": json.dumps(options),
    }


def _low_stock(count: int) -> Figure:
    return Figure(
        "Low stock",
        "inventory_2",
        [cells.number(count)],
        note="products have reached their threshold" if count else "No product has reached its threshold",
        url=_list("inventory_stock", "?level=low"),
        tone="alarm" if count else "",
    )


# --- The differences and the runs -------------------------------------------------------------------


def _differences(backlog: Sequence[KindBacklog]) -> Figure:
    count = sum(kind.total.count for kind in backlog)
    value: Counter[str] = Counter()
    for kind in backlog:
        value.update(kind.total.value)
    return Figure(
        "Open discrepancies",
        "difference",
        [str(count)],
        note=cells.beside("worth", _values(value)) if count else "Both sides agree",
        url=_list("reconciliation_discrepancy"),
        tone="alarm" if count else "well",
    )


def _values(value: Mapping[str, int]) -> SafeString:
    """A sum in each currency, on one line."""
    parts = [cells.money(amount, currency) for currency, amount in sorted(value.items()) if amount]
    return cells.beside(*parts) if parts else cells.NOTHING


def _backlog(backlog: Sequence[KindBacklog]) -> Table:
    """Kinds down, ages across; each figure leads to its items."""
    ages = [name for _, name in AGE_BUCKETS]
    total, by_age = Pile(), {name: Pile() for name in ages}
    rows: list[list[Cell]] = []
    for kind in backlog:
        _merge(total, kind.total)
        for name in ages:
            _merge(by_age[name], kind.ageing[name])
        label = cells.anchor(_list("reconciliation_discrepancy", f"?kind={kind.kind}"), kind.info.label)
        rows.append(
            [
                cells.beside(label, cells.badge(kind.info.severity, _SEVERITY[kind.info.severity])),
                *(_pile(kind.ageing[name], f"?kind={kind.kind}&age={_AGE_IN_ADDRESS[name]}") for name in ages),
                _pile(kind.total, f"?kind={kind.kind}"),
            ]
        )
    return Table(
        "Open discrepancies by kind and age",
        ["Kind", *(cells.right(f"{name} days") for name in ages), cells.right("All")],
        rows,
        empty="Nothing is open: every movement that was compared agrees on both sides.",
        footer=["All", *(_pile(by_age[name], f"?age={_AGE_IN_ADDRESS[name]}") for name in ages), _pile(total, "")],
        link=(_list("reconciliation_discrepancy"), "Work through them, oldest first"),
    )


def _merge(into: Pile, pile: Pile) -> None:
    into.count += pile.count
    for currency, amount in pile.value.items():
        into.value[currency] = into.value.get(currency, 0) + amount


def _pile(pile: Pile, query: str) -> SafeString:
    if not pile.count:
        return cells.NOTHING_RIGHT
    count = cells.anchor(_list("reconciliation_discrepancy", query), str(pile.count))
    return cells.pile(count, _values(pile.value))


def _runs(request: HttpRequest, runs: Sequence[Any]) -> Table:
    rows: list[list[Cell]] = []
    for run in runs:
        counts: Counter[str] = Counter()
        for kind in run.kinds.values():
            counts.update(kind)
        day = cells.link(request, "reconciliation.reconciliationrun", run.pk, f"{run.date:%a %d %b %Y}")
        off = {currency: amount for currency, amount in run.residual.items() if amount}
        rows.append(
            [
                cells.beside(day, cells.badge("provisional", "warn") if run.provisional else ""),
                cells.state(run.state),
                *(cells.number(count) for count in (run.matched, counts["new"], counts["persisting"])),
                *(cells.number(count) for count in (counts["resolved"], counts["timing"])),
                cells.figure(_values(off) if off else cells.badge("0", "good")),
                cells.sub(cells.moment(run.started_at), f"by {run.by}"),
            ]
        )
    figures = ("Matched", "New", "Persisting", "Resolved", "Timing", "Residual")
    return Table(
        "Last reconciliation runs",
        ["Day", "State", *(cells.right(name) for name in figures), "Started"],
        rows,
        empty="No run yet: beat starts one each night, manage.py reconcile --date … at once.",
        link=(_list("reconciliation_reconciliationrun"), "All runs"),
    )


# --- The machinery ----------------------------------------------------------------------------------


def _machinery(request: HttpRequest) -> tuple[Figure, Facts]:
    backlog, beat_s = durability.backlog(), durability.beat_age_s()
    parked, stuck = sum(backlog.parked.values()), list(durability.stuck_sagas()[:STUCK_SHOWN])
    late = backlog.oldest_s > settings.READYZ_OUTBOX_OLDEST_S
    silent = beat_s is None or beat_s > settings.READYZ_BEAT_SILENT_S
    complaints = {
        "the outbox is late": late,
        "beat is silent": silent,
        f"{parked} parked": parked,
        "a saga is stuck": stuck,
    }
    unwell = [complaint for complaint, is_so in complaints.items() if is_so]
    waiting = _list("durability_delivery") if parked else _list("durability_sagarun", "?state=needs+a+person")
    figure = Figure(
        "Machinery",
        "settings_heart",
        ["Needs a look" if unwell else "Well"],
        note=", ".join(unwell).capitalize() if unwell else "Outbox, sagas and beat keep up",
        url=waiting,
        tone="alarm" if unwell else "well",
    )
    at_work = sum(count for (_, state), count in durability.saga_counts().items() if state != "compensation_failed")
    stuck_links = [cells.link(request, "durability.sagarun", run.pk, run.recipe) for run in stuck]
    parked_links = [
        cells.anchor(_list("durability_delivery"), f"{count} × {handler}")
        for handler, count in sorted(backlog.parked.items())
    ]
    none = cells.badge("none", "good")
    return figure, Facts(
        "Machinery",
        [
            ("Oldest waiting delivery", _aged(backlog.oldest_s or None, late, nothing=none)),
            ("Parked deliveries", cells.lines(parked_links) if parked else none),
            ("Sagas at work", str(at_work)),
            ("Sagas that need a person", cells.lines(stuck_links) if stuck else none),
            ("Beat last seen", _aged(beat_s, silent, nothing=cells.badge("never", "bad"))),
        ],
    )


def _aged(age_s: float | None, bad: bool, *, nothing: SafeString) -> SafeString:
    return nothing if age_s is None else cells.badge(cells.seconds(age_s), "bad" if bad else "good")
