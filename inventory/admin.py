"""Stock and its log. Staff restock and correct counts with a reason; everything else is done by orders and the API."""

from typing import Any
from uuid import uuid4

from django import forms
from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest
from django.utils.safestring import SafeString

from foundation import cells
from foundation.desk import Act, ActForm, NoteForm, ReadOnlyAdmin, choice_filter
from foundation.sections import Facts, Page, Table
from inventory import services
from inventory.models import Stock, StockHold, StockMovement

_MOVEMENTS_SHOWN = 50
_HOLDS_SHOWN = 20


class MoveForm(NoteForm):
    """`key` is made with the page, so that a page sent twice moves stock once."""

    key = forms.UUIDField(widget=forms.HiddenInput)


class RestockForm(MoveForm):
    quantity = forms.IntegerField(label="Pieces", min_value=1, max_value=1_000_000)
    field_order = ("quantity", "note")


class AdjustForm(MoveForm):
    change = forms.IntegerField(
        label="Difference", min_value=-1_000_000, max_value=1_000_000, help_text="−3: three fewer were counted."
    )
    field_order = ("change", "note")


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
    )
    return f"{level.on_hand} pieces are on hand, {level.available} of them available."


@admin.register(Stock)
class StockAdmin(ReadOnlyAdmin[Stock]):
    list_display = ("title", "product_cell", "merchant_cell", "on_hand_cell", "reserved_cell", "available_cell")
    list_select_related = ("product", "merchant")
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
    )

    def find(self, text: str) -> Q:
        isbn = text.replace("-", "")
        return Q(product__isbn=isbn) if len(isbn) == 13 and isbn.isdigit() else Q(product__product_id=text)

    def act_form(self, act: Act[Stock], row: Stock) -> ActForm:
        return act.form(prefix=act.name, initial={"key": uuid4()})

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
            lead=[cells.badge("sold out", "warn")] if not row.available else [],
            sub=cells.beside(cells.code(row.product.product_id), "·", row.merchant.name),
            figure=("Available", cells.number(row.available)),
            main=[
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
                )
            ],
            side=[
                Facts(
                    "Stock",
                    [
                        ("On hand", cells.number(row.on_hand)),
                        ("Reserved", cells.number(row.reserved)),
                        ("Available", cells.number(row.available)),
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
