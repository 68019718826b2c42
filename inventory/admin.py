"""Stock and its log. Staff restock and correct counts with a reason; everything else is done by orders and the API."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

from django import forms
from django.conf import settings
from django.contrib import admin
from django.db.models import F, Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

import catalog.selectors
from foundation import cells
from foundation.database import database_now
from foundation.desk import (
    Act,
    ActForm,
    ChoiceFilter,
    NoteForm,
    ReadOnlyAdmin,
    VersionedForm,
    choice_filter,
    named_filter,
)
from foundation.exports import Value
from foundation.proofs import ProofAdmin
from foundation.sections import Custom, Facts, Page, Section, Table
from inventory import selectors, services
from inventory.models import Stock, StockCheck, StockHold, StockMovement
from inventory.types import StockAt

_MOVEMENTS_SHOWN = 50
_HOLDS_SHOWN = 20
_CHART_DAYS = 30
_CHART_HOURS = 36  # of a product that is younger than this the hours are shown


class MoveForm(NoteForm):
    """`key` is made with the page, so that a page sent twice moves stock once."""

    key = forms.UUIDField(widget=forms.HiddenInput)


class RestockForm(MoveForm):
    quantity = forms.IntegerField(label="Pieces", min_value=1, max_value=1_000_000)
    field_order = ("quantity", "note")


class AdjustForm(VersionedForm, MoveForm):
    change = forms.IntegerField(
        label="Difference", min_value=-1_000_000, max_value=1_000_000, help_text="−3: three fewer were counted."
    )
    field_order = ("change", "note")


class ThresholdForm(NoteForm):
    threshold = forms.IntegerField(
        label="Low from",
        required=False,
        min_value=0,
        max_value=settings.STOCK_MAX_QUANTITY,
        help_text="So many available pieces, or fewer; empty: it is never low.",
    )
    field_order = ("threshold", "note")


def restock(stock: Stock, data: dict[str, Any], by: str) -> str:
    level = services.restock(
        merchant_id=stock.merchant_id,
        product=stock.product.product_id,
        quantity=data["quantity"],
        key=f"desk:{data['key']}",
        by=by,
        reason=data["note"],
    )
    return f"{level.on_hand} pieces are on hand, {level.available} of them available."


def adjust(stock: Stock, data: dict[str, Any], by: str) -> str:
    level = services.adjust(
        merchant_id=stock.merchant_id,
        product=stock.product.product_id,
        change=data["change"],
        key=f"desk:{data['key']}",
        by=by,
        reason=data["note"],
        expected_version=data["version"],
    )
    return f"{level.on_hand} pieces are on hand, {level.available} of them available."


def set_threshold(stock: Stock, data: dict[str, Any], by: str) -> str:
    services.set_low_threshold(
        merchant_id=stock.merchant_id, product=stock.product.product_id, threshold=data["threshold"]
    )
    return "It is never low." if data["threshold"] is None else f"It is low from {data['threshold']} pieces down."


class LevelFilter(ChoiceFilter):
    title = parameter_name = "level"
    field = "low_noticed_at"
    options = ("low",)

    def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        """Everything that is low was noticed, which is indexed; of that, what has not come back by itself."""
        return rows.filter(low_noticed_at__isnull=False, low_threshold__gte=F("on_hand") - F("reserved"))


def _mark(stock: Stock) -> SafeString:
    """What somebody should do something about."""
    if stock.is_low:
        return cells.badge("low" if stock.available else "sold out, low", "bad" if not stock.available else "warn")
    return cells.badge("sold out", "warn") if not stock.available else SafeString()


@admin.register(Stock)
class StockAdmin(ReadOnlyAdmin[Stock]):
    list_display = (
        "title",
        "product_cell",
        "merchant_cell",
        "mark_cell",
        "on_hand_cell",
        "reserved_cell",
        "available_cell",
    )
    list_filter = (LevelFilter, named_filter("merchant", catalog.selectors.some_merchant_names, title="merchant"))
    list_select_related = ("product", "merchant")
    saved_views = (("All", ""), ("Low stock", "level=low"))
    export_columns = ("product", "title", "merchant", "on_hand", "reserved", "available", "low_threshold", "is_low")
    search_help_text = "Id or ISBN of a product"
    acts = (
        Act(
            name="restock",
            label="Restock",
            says="Puts pieces on the shelf.",
            permission="inventory.change_stock",
            run=restock,
            form=RestockForm,
            icon="add_box",
        ),
        Act(
            name="adjust",
            label="Correct the count",
            says="Changes what is on hand after a count, never below what is reserved.",
            permission="inventory.change_stock",
            run=adjust,
            form=AdjustForm,
            icon="rule",
        ),
        Act(
            name="threshold",
            label="Say when it is low",
            says="From so many pieces down it is marked here, and told to whoever listens.",
            permission="inventory.change_stock",
            run=set_threshold,
            form=ThresholdForm,
            icon="notifications",
        ),
    )

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Stock | None:
        """A product that never had any stock has a page as well: it is restocked there."""
        return super().get_object(request, object_id, from_field) or _nothing_of(object_id)

    def find(self, text: str) -> Q:
        isbn = text.replace("-", "")
        return Q(product__isbn=isbn) if len(isbn) == 13 and isbn.isdigit() else Q(product__product_id=text)

    def act_form(self, act: Act[Stock], row: Stock) -> ActForm:
        known = {"key": uuid4(), "version": row.version, "threshold": row.low_threshold}
        return act.form(
            prefix=act.name, initial={name: value for name, value in known.items() if name in act.form.base_fields}
        )

    def export_row(self, row: Stock) -> Sequence[Value]:
        counts = (row.on_hand, row.reserved, row.available, row.low_threshold, row.is_low)
        return (row.product.product_id, row.product.title, row.merchant.name, *counts)

    @admin.display(description="Mark")
    def mark_cell(self, stock: Stock) -> SafeString:
        return _mark(stock)

    @admin.display(description="Product")
    def title(self, stock: Stock) -> str:
        return stock.product.title

    @admin.display(description="Id")
    def product_cell(self, stock: Stock) -> SafeString:
        return cells.short(stock.product.product_id)

    @admin.display(description="Merchant")
    def merchant_cell(self, stock: Stock) -> str:
        return stock.merchant.name

    @admin.display(description="On hand")
    def on_hand_cell(self, stock: Stock) -> SafeString:
        return cells.number(stock.on_hand)

    @admin.display(description="Reserved")
    def reserved_cell(self, stock: Stock) -> SafeString:
        return cells.number(stock.reserved)

    @admin.display(description="Available")
    def available_cell(self, stock: Stock) -> SafeString:
        return cells.strong(cells.number(stock.available))

    def page(self, request: HttpRequest, row: Stock) -> Page:
        log = StockMovement.objects.filter(product_id=row.pk).order_by("-pk")[:_MOVEMENTS_SHOWN]
        holds = StockHold.objects.filter(product_id=row.pk, reserved__gt=0).order_by("-pk")[:_HOLDS_SHOWN]
        return Page(
            title=row.product.title,
            lead=[_mark(row)],
            sub=cells.beside(cells.code(row.product.product_id), "·", row.merchant.name),
            figure=("Available", cells.number(row.available)),
            main=[
                *_history(row),
                Table(
                    f"The newest {_MOVEMENTS_SHOWN} movements",
                    [
                        "What",
                        "When",
                        "By",
                        "Reference",
                        "Why",
                        cells.right("Change"),
                        cells.right("On hand"),
                        cells.right("Reserved"),
                    ],
                    [
                        [
                            cells.link(request, "inventory.stockmovement", one.pk, one.get_operation_display()),
                            cells.brief(one.at),
                            cells.who(one.by),
                            cells.short(one.reference),
                            one.reason or cells.NOTHING,
                            cells.change(one.on_hand_change or one.reserved_change),
                            cells.number(one.on_hand_after),
                            cells.number(one.reserved_after),
                        ]
                        for one in log
                    ],
                    empty="Nothing has moved yet.",
                ),
            ],
            side=[
                Facts(
                    "Stock",
                    [
                        ("On hand", cells.number(row.on_hand)),
                        ("Reserved", cells.number(row.reserved)),
                        ("Available", cells.number(row.available)),
                        ("Low from", cells.NOTHING if row.low_threshold is None else cells.number(row.low_threshold)),
                        ("Low was noticed", cells.moment(row.low_noticed_at)),
                        ("Changes so far", cells.number(row.version)),
                    ],
                ),
                Table(
                    "Held for",
                    ["Reference", cells.right("Pieces")],
                    [[cells.code(hold.reference), cells.number(hold.reserved)] for hold in holds],
                    empty="Nothing is reserved.",
                ),
            ],
        )


# The catalogue's model is its own; a key that points to it knows it.
_PRODUCTS: QuerySet[Any] = cast(Any, Stock._meta.get_field("product")).related_model._default_manager.all()


def _nothing_of(object_id: str) -> Stock | None:
    try:
        product = _PRODUCTS.select_related("merchant").filter(pk=UUID(object_id)).first()
    except ValueError:
        return None
    return Stock(product=product, merchant=product.merchant) if product else None


# --- The chart --------------------------------------------------------------------------------------


def _history(stock: Stock) -> list[Section]:
    """How the stock has stood: by day, or by hour for what is new; nothing where nothing ever moved."""
    first = selectors.first_movement_at(product_id=stock.pk)
    if first is None:
        return []
    now = database_now().astimezone(UTC)
    moments, label = _moments(first, now)
    past = selectors.stock_history(product_id=stock.pk, moments=moments)
    points = [*past, StockAt(now, stock.on_hand, stock.reserved)]
    lines = [
        _line("On hand", "#94a3b8", [point.on_hand for point in points]),
        _line("Available", "#4f46e5", [point.available for point in points]),
    ]
    if stock.low_threshold is not None:
        low = _line("Low from", "#f59e0b", [stock.low_threshold] * len(points))
        lines.append({**low, "borderDash": [6, 4], "borderWidth": 1})
    # A point is the end of its day or hour; the last one is now.
    data = {
        "labels": [*(f"{point.at - timedelta(microseconds=1):{label}}" for point in past), "now"],
        "datasets": lines,
    }
    says = f"Available from {points[0].available} to {points[-1].available}, {stock.on_hand} on hand now"
    values = {"type": "line", "data": json.dumps(data), "options": json.dumps(_CHART_OPTIONS), "says": says}
    return [Custom("admin/desk/chart.html", "On hand and available", values)]


def _moments(first: datetime, now: datetime) -> tuple[list[datetime], str]:
    """Ends of hours or days since the first movement, and how they are labelled."""
    if now - first < timedelta(hours=_CHART_HOURS):
        hour = now.replace(minute=0, second=0, microsecond=0)
        hours = [hour - timedelta(hours=back) for back in reversed(range(_CHART_HOURS))]
        return [moment for moment in hours if moment > first], "%H:00"
    midnight = datetime.combine(now.date(), time(), UTC)
    days = [midnight - timedelta(days=back) for back in reversed(range(_CHART_DAYS))]
    return [moment for moment in days if moment > first], "%d %b"


def _line(name: str, colour: str, values: Sequence[int]) -> dict[str, Any]:
    return {
        "label": name,
        "data": list(values),
        "borderColor": colour,
        "borderWidth": 2,
        "pointRadius": 0 if len(values) > 1 else 3,
        "stepped": "before",
    }


_CHART_OPTIONS: dict[str, Any] = {
    "animation": False,
    "responsive": True,
    "maintainAspectRatio": False,
    "plugins": {"legend": {"display": True, "position": "bottom"}},
    "scales": {"x": {"grid": {"display": False}}, "y": {"beginAtZero": True, "ticks": {"precision": 0}}},
}


@admin.register(StockMovement)
class StockMovementAdmin(ReadOnlyAdmin[StockMovement]):
    list_display = (
        "operation_cell",
        "product_cell",
        "change_cell",
        "on_hand_cell",
        "reserved_cell",
        "reference_cell",
        "by_cell",
        "at_cell",
    )
    list_filter = (choice_filter("operation", StockMovement.Operation.values),)
    list_select_related = ("product",)
    search_help_text = "Id of a product, or an order's number"
    export_columns = (
        "at",
        "product",
        "operation",
        "quantity",
        "on_hand_change",
        "reserved_change",
        "on_hand_after",
        "reserved_after",
        "reference",
        "by",
        "reason",
        "key",
    )

    def export_row(self, row: StockMovement) -> Sequence[Value]:
        counts = (row.quantity, row.on_hand_change, row.reserved_change, row.on_hand_after, row.reserved_after)
        return (row.at, row.product.product_id, row.operation, *counts, row.reference, row.by, row.reason, row.key)

    def find(self, text: str) -> Q:
        return Q(reference=text) if text.startswith("ord_") else Q(product__product_id=text)

    @admin.display(description="What")
    def operation_cell(self, row: StockMovement) -> str:
        return row.get_operation_display()

    @admin.display(description="Product")
    def product_cell(self, row: StockMovement) -> str:
        return row.product.title

    @admin.display(description="Change")
    def change_cell(self, row: StockMovement) -> SafeString:
        return cells.change(row.on_hand_change or row.reserved_change)

    @admin.display(description="On hand")
    def on_hand_cell(self, row: StockMovement) -> SafeString:
        return cells.number(row.on_hand_after)

    @admin.display(description="Reserved")
    def reserved_cell(self, row: StockMovement) -> SafeString:
        return cells.number(row.reserved_after)

    @admin.display(description="Reference")
    def reference_cell(self, row: StockMovement) -> SafeString:
        return cells.short(row.reference)

    @admin.display(description="By")
    def by_cell(self, row: StockMovement) -> SafeString:
        return cells.who(row.by)

    @admin.display(description="When")
    def at_cell(self, row: StockMovement) -> SafeString:
        return cells.moment(row.at)

    def page(self, request: HttpRequest, row: StockMovement) -> Page:
        return Page(
            title=row.get_operation_display(),
            sub=cells.link(request, "inventory.stock", row.product_id, row.product.title),
            figure=("On hand after it", cells.number(row.on_hand_after)),
            main=[
                Facts(
                    "Movement",
                    [
                        ("Pieces", cells.number(row.quantity)),
                        ("On hand", cells.change(row.on_hand_change)),
                        ("Reserved", cells.change(row.reserved_change)),
                        ("Reference", cells.code(row.reference)),
                        ("By", row.by),
                        ("Why", row.reason or cells.NOTHING),
                        ("When", cells.moment(row.at)),
                        ("Key", cells.code(row.key)),
                    ],
                )
            ],
        )


@admin.register(StockCheck)
class StockCheckAdmin(ProofAdmin[StockCheck]):
    list_display = ("day_cell", "verdict", "products_cell", "movements_cell", "finished")
    proves = "the stock"
    about = "product"
    counted = ("Movements added up", "movements")
    agrees = "What is on hand and reserved is what the log and the open reservations add up to."

    @admin.display(description="Products")
    def products_cell(self, check: StockCheck) -> SafeString:
        return cells.number(check.products)

    @admin.display(description="Movements")
    def movements_cell(self, check: StockCheck) -> SafeString:
        return cells.number(check.movements)
