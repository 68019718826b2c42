"""Orders on the finance desk: a list, and a page that tells an order's whole story."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import admin
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString

from catalog import selectors as catalog
from durability import desk as durability_looks
from durability import selectors as durability
from foundation import cells
from foundation.desk import Act, ActForm, ChoiceFilter, NoteForm, ReadOnlyAdmin, by_number, choice_filter
from foundation.errors import NotFound
from foundation.ids import parse_public_id
from foundation.sections import Cell, Entry, Facts, Page, Table, Timeline
from inventory import selectors as inventory
from inventory.types import MovementView
from orders import selectors, services
from orders.admin.merchant_calls import calls_table
from orders.models import MerchantCall, Order
from orders.states import OrderStatus
from orders.types import OrderView
from payments import desk as payments_desk
from payments import selectors as payments
from payments.types import DisputeView, EntryView, PaymentView, RefundView

_STATES = [value for name, value in vars(OrderStatus).items() if name.isupper()]
_ICONS = {
    OrderStatus.PENDING: "shopping_cart",
    OrderStatus.PAID: "payments",
    OrderStatus.SHIPPED: "local_shipping",
    OrderStatus.COMPLETED: "check",
    OrderStatus.CANCELLED: "close",
}


class RefundForm(payments_desk.RefundForm):
    """Of the payment that settles the order."""

    payment = forms.CharField(widget=forms.HiddenInput)


class ShipForm(NoteForm):
    carrier = forms.CharField(label="Carrier", required=False, max_length=100)
    tracking = forms.CharField(label="Tracking number", required=False, max_length=200)
    although_disputed = forms.BooleanField(
        label="Although it is disputed",
        required=False,
        help_text="Of a payment that the customer's bank takes back: nobody pays for what leaves the house.",
    )
    field_order = ("carrier", "tracking", "although_disputed", "note")


def ship(order: Order, data: dict[str, Any], by: str) -> str:
    with transaction.atomic():
        services.ship_order(
            number=order.number,
            merchant_id=order.merchant_id,
            carrier=data["carrier"],
            tracking=data["tracking"],
            by=by,
            why=data["note"],
            although_disputed=data["although_disputed"],
        )
    return "The order is shipped: its customer and its merchant are told."


def complete(order: Order, data: dict[str, Any], by: str) -> str:
    with transaction.atomic():
        services.complete_order(number=order.number, merchant_id=order.merchant_id, by=by, why=data["note"])
    return "The order is completed."


def cancel(order: Order, data: dict[str, Any], by: str) -> str:
    with transaction.atomic():
        services.request_cancel(
            number=order.number, merchant_id=order.merchant_id, unpaid_only=False, by=by, why=data["note"], hold=False
        )
    return "The order is being cancelled. What was paid is refunded first, then its stock comes back."


def refund(order: Order, data: dict[str, Any], by: str) -> str:
    return payments_desk.refund(data["payment"], data, currency=order.currency, merchant_id=order.merchant_id, by=by)


class DisputeFilter(ChoiceFilter):
    """Orders that a customer's bank disputes: the payments say which, no column of an order."""

    title = "dispute"
    parameter_name = "dispute"
    options = ("open",)

    def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        return rows.filter(pk__in=selectors.disputed_orders())


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that an order's page tells, read once."""

    order: OrderView
    refunds: Sequence[RefundView]
    disputes: Sequence[DisputeView]
    movements: Sequence[MovementView]
    entries: Sequence[EntryView]
    messages: Sequence[Any]
    sagas: Sequence[Any]
    webhooks: Sequence[Any]
    calls: Sequence[MerchantCall]


@admin.register(Order)
class OrderAdmin(ReadOnlyAdmin[Order]):
    list_display = ("number_cell", "customer_cell", "status_cell", "refund_cell", "placed", "paid", "total")
    list_filter = (
        choice_filter("status", _STATES),
        choice_filter("currency", ["usd", "eur", "gbp", "jpy"]),
        DisputeFilter,
    )
    saved_views = (
        ("All", ""),
        ("Waiting for payment", "status=pending"),
        ("Paid, to ship", "status=paid"),
        ("Shipped", "status=shipped"),
        ("Cancelled", "status=cancelled"),
        ("Disputed", "dispute=open"),
    )
    search_help_text = (
        "The whole number of an order, payment or refund, the provider's pi_… or ch_…, or a customer's id"
    )
    acts = (
        Act(
            name="ship",
            label="Ship",
            says="Says that the order is on its way, with whom and under which number. It cannot be cancelled then.",
            permission="orders.ship_order",
            run=ship,
            form=ShipForm,
            icon="local_shipping",
        ),
        Act(
            name="complete",
            label="Complete",
            says="Says that the order has arrived: nothing follows any more.",
            permission="orders.ship_order",
            run=complete,
            icon="check",
        ),
        Act(
            name="refund",
            label="Refund",
            says="Sends money back, all or part of it, past the merchant's refund window. The order stays as it is.",
            permission="payments.refund_payment",
            run=refund,
            form=RefundForm,
            icon="undo",
            danger=True,
        ),
        Act(
            name="cancel",
            label="Cancel the order",
            says="Stops payment and shipping, refunds what was paid, and puts the stock back.",
            permission="orders.cancel_order",
            run=cancel,
            icon="cancel",
            danger=True,
        ),
    )

    def find(self, text: str) -> Q:
        if text.startswith("ord_"):
            return by_number(Order.id_of, text)
        try:
            if text.startswith("pay_"):
                return by_number(Order.id_of, payments.get_payment(text).reference)
            if text.startswith("ref_"):
                return by_number(Order.id_of, payments.get_payment(payments.get_refund(text).payment).reference)
        except NotFound:
            return Q(pk__in=[])
        if text.startswith(("pi_", "ch_")):
            found = payments.find_by_provider_reference(text)
            return by_number(Order.id_of, found.reference if found else "")
        return Q(customer=text)

    def prepare(self, rows: list[Order]) -> None:
        views = {view.number: view for view in selectors.views(rows)}
        for row in rows:
            row.__dict__["refund_status"] = views[row.number].refund_status
            row.__dict__["dispute"] = views[row.number].dispute

    def offered(self, row: Order) -> list[str]:
        view = selectors.get_order(row.number)
        acts = []
        if row.status == OrderStatus.PAID and row.cancel_requested_at is None:
            acts.append("ship")
        if row.status == OrderStatus.SHIPPED:
            acts.append("complete")
        if _refundable(view):
            acts.append("refund")
        if row.status in (OrderStatus.PENDING, OrderStatus.PAID) and row.cancel_requested_at is None:
            acts.append("cancel")
        return acts

    def act_form(self, act: Act[Order], row: Order) -> ActForm:
        initial = {}
        if act.name == "refund" and (settling := _refundable(selectors.get_order(row.number))):
            initial["payment"] = settling.number
        form = act.form(prefix=act.name, initial=initial)
        if act.name == "ship" and not selectors.get_order(row.number).dispute:
            del form.fields["although_disputed"]
        return form

    # --- The list ---

    @admin.display(description="Order")
    def number_cell(self, order: Order) -> SafeString:
        return cells.code(order.number)

    @admin.display(description="Customer")
    def customer_cell(self, order: Order) -> SafeString:
        return cells.lines([order.customer])

    @admin.display(description="Status")
    def status_cell(self, order: Order) -> SafeString:
        asked = cells.badge("cancelling", "warn") if _is_cancelling(order) else ""
        return cells.beside(cells.state(order.status), asked, _dispute_badge(order.__dict__["dispute"]))

    @admin.display(description="Refund")
    def refund_cell(self, order: Order) -> SafeString:
        status = order.__dict__["refund_status"]
        return cells.NOTHING if status == "none" else cells.state(status)

    @admin.display(description="Placed")
    def placed(self, order: Order) -> SafeString:
        return cells.moment(order.created_at)

    @admin.display(description="Paid")
    def paid(self, order: Order) -> SafeString:
        return cells.moment(order.paid_at)

    @admin.display(description="Total")
    def total(self, order: Order) -> SafeString:
        return cells.money(order.total_minor, order.currency)

    # --- The page ---

    def page(self, request: HttpRequest, row: Order) -> Page:
        story = _read(row)
        view = story.order
        lead: list[Cell] = [cells.state(row.status)]
        if _is_cancelling(row):
            lead.append(cells.badge("cancelling", "warn"))
        if view.dispute:
            lead.append(_dispute_badge(view.dispute))
        if view.refund_status != "none":
            text = "partly refunded" if view.refund_status == "partial" else view.refund_status
            lead.append(cells.badge(text, cells.tone_of(view.refund_status)))
        return Page(
            title=cells.code(row.number),
            lead=lead,
            sub=cells.beside(
                catalog.get_merchant(row.merchant_id).name, "· placed", cells.moment(row.created_at), "UTC"
            ),
            figure=("Total", cells.money(row.total_minor, row.currency)),
            main=[
                _items(view),
                _payments(request, view),
                _refunds(request, view, story.refunds),
                *([payments_desk.disputes_table(request, story.disputes)] if story.disputes else []),
                _ledger(request, story.entries),
                _stock(story.movements),
                durability_looks.tracks(request, story.sagas),
                durability_looks.messages(request, story.messages),
                _webhooks(request, story.webhooks),
                calls_table(request, story.calls),
            ],
            side=[_facts(request, row), _timeline(row, story)],
        )


def _read(row: Order) -> Story:
    number = row.number
    order = selectors.get_order(number)
    refunds = payments.refunds_of([number])
    disputes = payments.disputes_of([number])
    intents = [one.provider_reference for one in order.payments if one.provider_reference]
    keys = [number, *(one.number for one in order.payments)]
    durable = durability.story_of(keys)
    return Story(
        order=order,
        refunds=refunds,
        disputes=disputes,
        movements=inventory.movements_of(merchant_id=row.merchant_id, reference=number),
        entries=payments.journal_of([number]),
        messages=durable["messages"],
        sagas=durable["sagas"],
        webhooks=payments.inbox_of(
            [
                *intents,
                *(one.provider_reference for one in refunds if one.provider_reference),
                *(one.provider_reference for one in disputes),
            ]
        ),
        calls=selectors.merchant_calls_about(
            [number, *(one.number for one in refunds), *(one.number for one in disputes)]
        ),
    )


def _refundable(view: OrderView) -> PaymentView | None:
    """The payment that settles the order, while something of it can still be refunded."""
    for payment in view.payments:
        taken_minor = payment.refunded_minor + payment.refunds_open_minor + payment.disputed_lost_minor
        if payment.settling and not payment.disputed and payment.captured_minor > taken_minor:
            return payment
    return None


def _dispute_badge(dispute: str) -> SafeString | str:
    return cells.badge("dispute lost" if dispute == "lost" else dispute, "bad") if dispute else ""


def _is_cancelling(order: Order) -> bool:
    return order.cancel_requested_at is not None and order.status != OrderStatus.CANCELLED


def _facts(request: HttpRequest, row: Order) -> Facts:
    facts: list[tuple[str, Cell]] = [
        ("Customer", row.customer),
        ("E-mail", row.customer_email or cells.NOTHING),
        ("Phone", row.customer_phone or cells.NOTHING),
        ("Paid", cells.moment(row.paid_at)),
    ]
    if row.status == OrderStatus.PENDING:
        facts.append(("Expires", cells.moment(row.expires_at)))
    if row.carrier or row.tracking:
        facts.append(("Shipment", f"{row.carrier} {row.tracking}".strip()))
    facts.append(("Discrepancies", _discrepancies_link(request, row.number)))
    facts.append(
        ("Follow the money", cells.report(request, "reconciliation.bankline/walk", "to the bank", q=row.number))
    )
    return Facts("Order", facts)


def _discrepancies_link(request: HttpRequest, number: str) -> SafeString:
    """By the address's name alone: orders knows nothing of reconciliation."""
    if not request.user.has_perm("reconciliation.view_discrepancy"):
        return cells.NOTHING
    return cells.anchor(
        f"{reverse('admin:reconciliation_discrepancy_changelist')}?state=all&q={number}", "of this order"
    )


def _items(view: OrderView) -> Table:
    return Table(
        "Items",
        ["Title", "Product", cells.right("Price"), cells.right("Pieces"), cells.right("Amount")],
        [
            [
                item.title,
                cells.short(item.product),
                cells.money(item.unit_price_minor, view.currency),
                cells.number(item.quantity),
                cells.money(item.amount_minor, view.currency),
            ]
            for item in view.items
        ],
        empty="An order has one item at least.",
        footer=["Total", "", "", "", cells.money(view.total_minor, view.currency)],
    )


def _payments(request: HttpRequest, view: OrderView) -> Table:
    return Table(
        "Payments",
        ["Payment", "Status", "Method", "At the provider", "Created", cells.right("Captured"), cells.right("Amount")],
        [
            [
                cells.link(request, "payments.payment", one.id, cells.short(one.number)),
                cells.lines([cells.state(one.status), *_failure(one)]),
                one.method,
                cells.lines(
                    [
                        cells.short(one.provider_reference),
                        *([cells.short(one.charge_reference)] if one.charge_reference else []),
                    ]
                ),
                cells.brief(one.created_at),
                cells.money(one.captured_minor or None, one.currency),
                cells.money(one.amount_minor, one.currency),
            ]
            for one in view.payments
        ],
        empty="Nobody has tried to pay yet.",
    )


def _failure(payment: PaymentView) -> list[SafeString]:
    if payment.failure is None:
        return []
    code = payment.failure.decline_code or payment.failure.code
    return [cells.quiet(code.replace("_", " "), title=payment.failure.message)]


def _refunds(request: HttpRequest, view: OrderView, refunds: Sequence[RefundView]) -> Table:
    return Table(
        "Refunds",
        ["Refund", "Status", "Reason", "Asked by", "At the provider", "Created", cells.right("Amount")],
        [
            [
                cells.link(request, "payments.refund", parse_public_id("ref", one.number), cells.short(one.number)),
                cells.state(one.status),
                one.reason,
                one.requested_by,
                cells.short(one.provider_reference),
                cells.brief(one.created_at),
                cells.money(one.amount_minor, one.currency),
            ]
            for one in refunds
        ],
        empty="Nothing has been refunded.",
    )


def _ledger(request: HttpRequest, entries: Sequence[EntryView]) -> Table:
    rows: list[list[Cell]] = []
    for entry in entries:
        for position, (account, amount_minor) in enumerate(entry.lines):
            rows.append(
                [
                    cells.link(request, "payments.journalentry", entry.id, entry.kind.replace("_", " "))
                    if not position
                    else "",
                    account,
                    cells.brief(entry.at) if not position else "",
                    cells.money(amount_minor, entry.currency) if amount_minor > 0 else "",
                    cells.money(-amount_minor, entry.currency) if amount_minor < 0 else "",
                ]
            )
    return Table(
        "Ledger",
        ["Entry", "Account", "Posted", cells.right("Debit"), cells.right("Credit")],
        rows,
        empty="Nothing has been posted.",
    )


def _stock(movements: Sequence[MovementView]) -> Table:
    return Table(
        "Stock",
        ["What", "Product", "When", "By", cells.right("On hand"), cells.right("Reserved")],
        [
            [
                one.operation.replace("_", " "),
                cells.short(one.product),
                cells.brief(one.at),
                cells.who(one.by),
                cells.change(one.on_hand_change) if one.on_hand_change else cells.NOTHING_RIGHT,
                cells.change(one.reserved_change) if one.reserved_change else cells.NOTHING_RIGHT,
            ]
            for one in movements
        ],
        empty="No stock has moved.",
    )


def _webhooks(request: HttpRequest, events: Sequence[Any]) -> Table:
    return Table(
        "Webhooks",
        ["Type", "Object", "Made at the provider", "Received"],
        [
            [
                cells.link(request, "payments.inboxevent", event.pk, event.type),
                cells.short(event.object_id),
                cells.brief(event.provider_created_at),
                cells.brief(event.received_at),
            ]
            for event in events
        ],
        empty="The provider has told us nothing about this yet.",
    )


def _timeline(row: Order, story: Story) -> Timeline:
    """Who did what, when and why: the states, the money and the stock, oldest first."""
    entries = [Entry(row.created_at, "Placed", f"customer {row.customer}", "shopping_cart", "info")]
    for change in row.history.order_by("at", "pk"):
        icon = _ICONS.get(change.to_state, "flag")
        entries.append(
            Entry(
                change.at,
                change.to_state.capitalize(),
                cells.who(change.by, change.why),
                icon,
                cells.tone_of(change.to_state),
            )
        )
    for payment in story.order.payments:
        amount = cells.money(payment.amount_minor, payment.currency)
        entries.append(Entry(payment.created_at, cells.beside("Payment begun", amount), payment.method, "credit_card"))
        if payment.paid_at:
            entries.append(
                Entry(payment.paid_at, cells.beside("Captured", amount), "at the provider", "savings", "good")
            )
    for refund_made in story.refunds:
        amount = cells.money(refund_made.amount_minor, refund_made.currency)
        asked = cells.who(refund_made.requested_by, refund_made.reason)
        entries.append(Entry(refund_made.created_at, cells.beside("Refund asked for", amount), asked, "undo", "busy"))
        if refund_made.completed_at:
            tone = cells.tone_of(refund_made.status)
            title = cells.beside(f"Refund {refund_made.status}", amount)
            entries.append(Entry(refund_made.completed_at, title, "at the provider", "undo", tone))
    for movement in story.movements:
        what = f"{movement.operation.replace('_', ' ').capitalize()} {movement.quantity} × {movement.product}"
        entries.append(Entry(movement.at, what, cells.who(movement.by), "inventory_2"))
    return Timeline("Story", sorted(entries, key=lambda entry: entry.at), empty="")
