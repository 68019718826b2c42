"""What the terminal says when the day is over."""

from collections import Counter
from datetime import UTC, datetime, time, timedelta

from rich.console import Group
from rich.padding import Padding
from rich.table import Table

from config.trading_day.load import Loader
from foundation.database import database_now
from foundation.money import format_minor
from payments import selectors as payments
from reconciliation import selectors as reconciliation
from reconciliation.types import KINDS, RunReport


def summary(loader: Loader, report: RunReport) -> Group:
    """Orders by status, money by currency in our books and in the provider's, discrepancies by kind."""
    tables = (_orders(loader), _money(loader), _discrepancies(loader, report))
    return Group(*(Padding(table, (1, 0, 0, 2), expand=False) for table in tables))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    return table


def _orders(loader: Loader) -> Table:
    table = _table("orders", "paid", "shipped", "completed", "cancelled", "pending", "refunded")
    for shop in loader.shops.values():
        orders = list(shop.operations.walk("/orders"))
        by_status = Counter(order["status"] for order in orders)
        by_refund = Counter(order["refund_status"] for order in orders)
        counts = [by_status[status] for status in ("paid", "shipped", "completed", "cancelled", "pending")]
        refunds = f"{by_refund['refunded']} + {by_refund['partial']} in part"
        table.add_row(shop.merchant.name, *map(str, counts), refunds)
    return table


def _money(loader: Loader) -> Table:
    since = datetime.combine(loader.since, time.min, UTC)
    until = database_now() + timedelta(days=1)  # all of today, whatever the provider's clock says
    captured = {total.currency: total.amount_minor for total in payments.captured_between(since, until)}
    refunded = {total.currency: total.amount_minor for total in payments.refunded_between(since, until)}
    theirs = loader.provider_books()
    table = _table("money", "captured", "refunded", "fees", "Stripe: captured", "refunded")
    for currency in loader.shops:
        columns = (captured, refunded, theirs["fees"], theirs["captured"], theirs["refunded"])
        table.add_row(currency, *(format_minor(column.get(currency, 0), currency) for column in columns))
    return table


def _discrepancies(loader: Loader, report: RunReport) -> Table:
    """What waits: evidence says that it heals by itself (`timing`), and the day's run told so."""
    closed, still_open = loader.closed(), reconciliation.open_counts()
    table = _table("discrepancies", "open", "waits", "closed by hand")
    for kind in KINDS:
        waits = report.kinds[kind].timing if kind in report.kinds else 0
        counts = (still_open[kind], waits, closed[kind])
        if any(counts):
            table.add_row(KINDS[kind].label, *(str(count or "") for count in counts))
    return table
