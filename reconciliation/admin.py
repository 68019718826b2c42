"""Discrepancies and runs on the finance desk: ours beside theirs, and what can be done about the difference."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

from django import forms
from django.contrib import admin
from django.contrib.auth.models import User
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from foundation import cells, numbers
from foundation.database import database_now
from foundation.desk import Act, ActForm, ChoiceFilter, NoteForm, ReadOnlyAdmin, by_number, choice_filter
from foundation.errors import NotFound
from foundation.ids import parse_public_id
from foundation.sections import Cell, Custom, Entry, Facts, Page, Section, Table, Timeline
from orders.types import OrderView
from reconciliation import selectors, services
from reconciliation.models import (
    Discrepancy,
    DiscrepancyAction,
    DiscrepancyHistory,
    ProviderTransaction,
    ReconciliationRun,
)
from reconciliation.states import OPEN_STATES, DiscrepancyState, Outcome, RunState
from reconciliation.types import ACTIONS, KINDS, Action, ActionInfo, ActionInput, Severity

_COLLEAGUES_SHOWN = 200
_SEVERITY: dict[str, cells.Tone] = {Severity.HIGH: "bad", Severity.MEDIUM: "warn", Severity.LOW: "quiet"}
# Days since the business date: (shortest, longest, name).
_AGES = ((0, 1, "0-1"), (2, 3, "2-3"), (4, 7, "4-7"), (8, 30, "8-30"), (31, None, "over 30"))


class StateFilter(ChoiceFilter):
    """Without a choice: what somebody has to look at."""

    title = "state"
    parameter_name = "state"
    field = "state"
    options = ("open", DiscrepancyState.TIMING, DiscrepancyState.IGNORED, DiscrepancyState.RESOLVED, "all")
    default = "open"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value() and request.GET.get("q"):
            return queryset  # who looks for one finds it in any state
        return super().queryset(request, queryset)

    def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        if value == "all":
            return rows
        return rows.filter(state__in=OPEN_STATES) if value == "open" else rows.filter(state=value)


class KindFilter(ChoiceFilter):
    title = "kind"
    parameter_name = "kind"
    field = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(kind, info.label) for kind, info in KINDS.items()]


class AgeFilter(ChoiceFilter):
    title = "age in days"
    parameter_name = "age"
    options = tuple(name for _, _, name in _AGES)

    def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        today = database_now().date()
        for shortest, longest, name in _AGES:
            if name == value:
                rows = rows.filter(business_date__lte=today - timedelta(days=shortest))
                return rows if longest is None else rows.filter(business_date__gte=today - timedelta(days=longest))
        return rows


class CurrencyFilter(ChoiceFilter):
    title = "currency"
    parameter_name = "currency"
    options = ("usd", "eur", "gbp", "jpy")

    def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        return rows.filter(Q(theirs_currency=value) | Q(ours_currency=value))


class OwnerFilter(ChoiceFilter):
    """Mine, or nobody's."""

    title = "owner"
    parameter_name = "owner"
    options = ("me", "nobody")

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "me":
            return queryset.filter(owner=request.user.get_username())
        return queryset.filter(owner="") if self.value() == "nobody" else queryset


def colleagues() -> list[tuple[str, str]]:
    """Staff to whom an item can be given."""
    names = User.objects.filter(is_staff=True, is_active=True).order_by("username").values_list("username", flat=True)
    return [(name, name) for name in names[:_COLLEAGUES_SHOWN]]


# --- What can be done: the actions of reconciliation.types, each with the fields that it asks for ---


class ActionForm(NoteForm):
    """`key` is made with the page: the same press of a button, however often it is sent, is done once."""

    key = forms.UUIDField(widget=forms.HiddenInput)


class OrderForm(ActionForm):
    order_number = forms.CharField(
        label="Order",
        max_length=64,
        required=False,
        help_text="Where it is filled in, Stripe's charge names this order.",
    )
    field_order: tuple[str, ...] = ("order_number", "note")


class RefundForm(OrderForm):
    amount = forms.CharField(
        label="Amount",
        required=False,
        help_text=numbers.explained("As {}. Empty: what was taken too much, or all of a charge that we do not know."),
        widget=forms.TextInput(attrs={"inputmode": "decimal"}),
    )
    field_order = ("amount", "order_number", "note")


class OwnerForm(ActionForm):
    owner = forms.ChoiceField(label="Colleague", choices=colleagues)
    field_order = ("owner", "note")


class UntilForm(ActionForm):
    until = forms.DateField(label="Until", widget=forms.DateInput(attrs={"type": "date"}))
    field_order = ("until", "note")


_FORMS: dict[tuple[str, ...], type[ActionForm]] = {
    (): ActionForm,
    ("order_number",): OrderForm,
    ("amount_minor", "order_number"): RefundForm,
    ("owner",): OwnerForm,
    ("until",): UntilForm,
}
_ICONS = {
    Action.REQUERY: "sync",
    Action.CREATE_MISSING_PAYMENT: "add_card",
    Action.CREATE_MISSING_REFUND: "add_circle",
    Action.POST_CORRECTION: "edit_note",
    Action.TAKE_PROVIDER_STATUS: "download",
    Action.REFUND_CUSTOMER: "undo",
    Action.MARK_FRAUD: "gpp_bad",
    Action.ACCEPT: "check_circle",
    Action.CLAIM: "front_hand",
    Action.ASSIGN: "person_add",
    Action.RELEASE: "person_remove",
    Action.IGNORE_UNTIL: "snooze",
}
_MOVES_MONEY = (Action.REFUND_CUSTOMER, Action.MARK_FRAUD)


def _act(info: ActionInfo) -> Act[Discrepancy]:
    def run(item: Discrepancy, data: dict[str, Any], by: str) -> str:
        amount = data.get("amount", "").strip()
        given = ActionInput(
            order_number=data.get("order_number", ""),
            amount_minor=numbers.read(amount, item.currency) if amount else None,
            owner=data.get("owner", ""),
            until=data.get("until"),
        )
        result = services.perform(
            discrepancy_id=item.pk, action=info.name, by=by, note=data["note"], key=str(data["key"]), given=given
        )
        return f"This was done before, and is done once: {result.text}" if result.replayed else result.text

    return Act(
        name=info.name,
        label=info.label,
        says=info.explanation,
        permission=info.permission,
        run=run,
        form=_FORMS[info.asks_for],
        icon=_ICONS[info.name],
        danger=info.name in _MOVES_MONEY,
    )


@admin.register(Discrepancy)
class DiscrepancyAdmin(ReadOnlyAdmin[Discrepancy]):
    list_display = (
        "kind_cell",
        "order",
        "ours",
        "theirs",
        "difference",
        "age",
        "severity_cell",
        "state_cell",
        "owner_cell",
    )
    list_filter = (
        StateFilter,
        KindFilter,
        choice_filter("severity", [Severity.HIGH, Severity.MEDIUM, Severity.LOW]),
        AgeFilter,
        CurrencyFilter,
        OwnerFilter,
    )
    saved_views = (
        ("Open, oldest first", "state=open"),
        ("Mine", "owner=me"),
        ("Nobody's", "owner=nobody"),
        ("Timing", "state=timing"),
        ("Ignored", "state=ignored"),
        ("Resolved", "state=resolved"),
        ("All", "state=all"),
    )
    search_help_text = "Number of an order or discrepancy, or ch_…, re_…"
    acts = tuple(_act(info) for info in {info.name: info for infos in ACTIONS.values() for info in infos}.values())

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        newest_first = request.GET.get("state") in (DiscrepancyState.RESOLVED, "all")
        return ("-pk",) if newest_first else ("business_date", "pk")

    def find(self, text: str) -> Q:
        if text.startswith("ord_"):
            return Q(order_reference=text)
        if text.startswith("dis_"):
            return by_number(Discrepancy.id_of, text)
        return Q(fingerprint__in=[f"{kind}:{text}" for kind in KINDS])

    def prepare(self, rows: list[Discrepancy]) -> None:
        today = database_now().date()
        for row in rows:
            row.__dict__["age_days"] = (today - row.business_date).days

    # --- The list ---

    @admin.display(description="Kind")
    def kind_cell(self, item: Discrepancy) -> SafeString:
        return cells.sub(item.get_kind_display(), item.source)

    @admin.display(description="Order")
    def order(self, item: Discrepancy) -> SafeString:
        return cells.short(item.order_reference)

    @admin.display(description="Ours")
    def ours(self, item: Discrepancy) -> SafeString:
        return cells.money(item.ours_amount_minor, item.ours_currency)

    @admin.display(description="Stripe's")
    def theirs(self, item: Discrepancy) -> SafeString:
        return cells.money(item.theirs_amount_minor, item.theirs_currency)

    @admin.display(description="Difference")
    def difference(self, item: Discrepancy) -> SafeString:
        return cells.difference(item.difference_minor, item.currency)

    @admin.display(description="Age")
    def age(self, item: Discrepancy) -> SafeString:
        return _age(item.__dict__["age_days"])

    @admin.display(description="Severity")
    def severity_cell(self, item: Discrepancy) -> SafeString:
        return cells.badge(item.severity, _SEVERITY[item.severity])

    @admin.display(description="State")
    def state_cell(self, item: Discrepancy) -> SafeString:
        return _state(item)

    @admin.display(description="Owner")
    def owner_cell(self, item: Discrepancy) -> str:
        return item.owner or "—"

    # --- The page ---

    def offered(self, row: Discrepancy) -> list[str]:
        return [info.name for info in selectors.offered_actions(row)]

    def suggested(self, request: HttpRequest, row: Discrepancy) -> str:
        allowed = [info for info in selectors.offered_actions(row) if request.user.has_perm(info.permission)]
        repairs = [info for info in allowed if info.repairs]
        return next((info.name for info in [*repairs, *allowed]), "")

    def act_form(self, act: Act[Discrepancy], row: Discrepancy) -> ActForm:
        initial: dict[str, Any] = {"key": uuid4(), "order_number": row.order_reference}
        if act.name == Action.CLAIM:
            initial["note"] = "I look into it."
        return act.form(prefix=act.name, initial=initial)

    def page(self, request: HttpRequest, row: Discrepancy) -> Page:
        found = selectors.discrepancy_page(row.pk)
        item = found.item
        return Page(
            title=found.info.label,
            lead=[_state(item), cells.badge(item.severity, _SEVERITY[item.severity])],
            sub=cells.beside(cells.code(item.number), f"· of {item.business_date:%d %b %Y}", _age(found.age_days)),
            previous=self._neighbour(item, forward=False),
            next=self._neighbour(item, forward=True),
            main=[
                _compare(request, item),
                _actions_log(found.actions),
                *_order(request, found.order),
                _transactions(found.transactions),
                self._facts(request, item),
                _history(found.history),
            ],
        )

    def next_url(self, row: Discrepancy) -> str:
        return self._neighbour(row, forward=True)

    def _neighbour(self, row: Discrepancy, *, forward: bool) -> str:
        """The next or the previous open item, oldest first."""
        items = Discrepancy.objects.filter(state__in=OPEN_STATES)
        if forward:
            items = items.filter(
                Q(business_date__gt=row.business_date) | Q(business_date=row.business_date, pk__gt=row.pk)
            )
        else:
            items = items.filter(
                Q(business_date__lt=row.business_date) | Q(business_date=row.business_date, pk__lt=row.pk)
            )
        order = ("business_date", "pk") if forward else ("-business_date", "-pk")
        found = items.filter(business_date__isnull=False).order_by(*order).first()
        return self.page_url(found) if found else ""

    def _facts(self, request: HttpRequest, row: Discrepancy) -> Facts:
        facts: list[tuple[str, Cell]] = [
            ("Owner", row.owner or cells.NOTHING),
            ("Order", _order_link(request, row.order_reference)),
            ("Payment", _linked(request, "payments.payment", row.payment_id, row.payment_number)),
            ("Refund", _linked(request, "payments.refund", row.refund_id, row.refund_number)),
            ("Stripe's object", cells.code(row.source)),
            ("Intent", cells.code(row.intent)),
            ("Matched by", str(row.evidence.get("matched_by", "")).replace("_", " ") or cells.NOTHING),
            ("First seen", cells.beside(_run_link(request, row.first_seen_run), cells.moment(row.first_seen_at))),
            ("Last seen", _run_link(request, row.last_seen_run)),
        ]
        if row.becomes_break_at:
            facts.append(("Why it may be timing", str(row.evidence.get("timing", ""))))
            facts.append(("Becomes a break", cells.moment(row.becomes_break_at)))
        if row.ignored_until:
            facts.append(("Ignored until", f"{row.ignored_until:%d %b %Y}"))
        if row.state == DiscrepancyState.RESOLVED:
            facts.append(("Closed", cells.beside(row.closed_as, "by", row.resolved_by or "a run")))
            facts.append(("Closed at", cells.moment(row.resolved_at)))
            verified = cells.beside(_run_link(request, row.verified_by_run), cells.moment(row.verified_at))
            facts.append(("Confirmed by a later look", verified if row.verified_at else "not yet"))
        return Facts("Item", facts)


def _age(days: int) -> SafeString:
    tone: cells.Tone = "quiet" if days <= 1 else "warn" if days <= 7 else "bad"
    return cells.badge("today" if days <= 0 else f"{days} day" if days == 1 else f"{days} days", tone)


def _state(item: Discrepancy) -> SafeString:
    if item.state == DiscrepancyState.RESOLVED:
        return cells.beside(
            cells.badge(item.closed_as, "good"), "" if item.verified_at else cells.badge("to be confirmed", "info")
        )
    return cells.state(item.state)


def _order_link(request: HttpRequest, reference: str) -> SafeString:
    """What the provider's metadata call an order need not be one of ours."""
    try:
        return cells.link(request, "orders.order", parse_public_id("ord", reference), cells.short(reference))
    except NotFound:
        return cells.code(reference)


def _linked(request: HttpRequest, model: str, pk: object, number: str) -> SafeString:
    return cells.link(request, model, pk, cells.short(number)) if pk else cells.NOTHING


def _run_link(request: HttpRequest, run: ReconciliationRun | None) -> SafeString:
    if run is None:
        return cells.NOTHING
    return cells.link(request, "reconciliation.reconciliationrun", run.pk, f"run of {run.date:%d %b}")


def _compare(request: HttpRequest, row: Discrepancy) -> Custom:
    ours, theirs = row.ours_amount_minor is not None, row.theirs_amount_minor is not None
    both = ours and theirs
    sides = [
        {
            "name": "Our books",
            "there": ours,
            "missing": "Our books hold nothing for this.",
            "amount": cells.money(row.ours_amount_minor, row.ours_currency),
            "facts": [
                ("Status", cells.state(row.ours_status), both and row.ours_status != row.theirs_status),
                ("Currency", row.ours_currency.upper(), both and row.ours_currency != row.theirs_currency),
                ("At", cells.moment(row.ours_at), False),
                ("Number", _own_number(request, row), False),
            ],
        },
        {
            "name": "Stripe's books",
            "there": theirs,
            "missing": "Stripe's books hold nothing for this.",
            "amount": cells.money(row.theirs_amount_minor, row.theirs_currency),
            "facts": [
                ("Status", cells.state(row.theirs_status), both and row.ours_status != row.theirs_status),
                ("Currency", row.theirs_currency.upper(), both and row.ours_currency != row.theirs_currency),
                ("At", cells.moment(row.theirs_at), False),
                ("Id", cells.code(row.source), False),
            ],
        },
    ]
    return Custom(
        "admin/desk/compare.html",
        "Ours and theirs",
        {
            "who_has_more": _who_has_more(row.difference_minor),
            "difference": cells.difference(row.difference_minor, row.currency),
            "explanation": KINDS[row.kind].explanation,
            "is_past": row.state == DiscrepancyState.RESOLVED,
            "sides": sides,
        },
    )


def _who_has_more(difference_minor: int | None) -> str:
    if difference_minor is None:
        return "Cannot be told"
    return "Difference" if not difference_minor else "Stripe has more" if difference_minor > 0 else "Stripe has less"


def _own_number(request: HttpRequest, row: Discrepancy) -> SafeString:
    if row.refund_id:
        return cells.link(request, "payments.refund", row.refund_id, cells.code(row.refund_number))
    if row.payment_id:
        return cells.link(request, "payments.payment", row.payment_id, cells.code(row.payment_number))
    return cells.NOTHING


def _transactions(rows: Sequence[ProviderTransaction]) -> Table:
    return Table(
        "Stripe's rows",
        ["Row", "Category", "Created", "Order it names", cells.right("Gross"), cells.right("Fee"), cells.right("Net")],
        [
            [
                cells.short(one.pk),
                one.reporting_category.replace("_", " "),
                cells.brief(one.created_at),
                cells.short(one.order_reference),
                cells.money(one.amount_minor, one.currency),
                cells.money(one.fee_minor, one.currency),
                cells.money(one.net_minor, one.currency),
            ]
            for one in rows
        ],
        empty="Stripe's books hold no row for this.",
    )


def _order(request: HttpRequest, order: OrderView | None) -> list[Section]:
    """The order that both sides, or Stripe's metadata alone, name: what it asked for, and what was tried."""
    if order is None:
        return []
    number = cells.link(request, "orders.order", order.id, cells.code(order.number))
    asks = cells.beside(order.customer.id, "asks for", cells.strong(cells.money(order.total_minor, order.currency)))
    return [
        Table(
            "Its order and payments",
            ["Number", "Status", "At Stripe", "Created", cells.right("Captured"), cells.right("Refunded")],
            [
                [cells.sub(number, asks), cells.state(order.status), "", cells.brief(order.created_at), "", ""],
                *(
                    [
                        cells.link(request, "payments.payment", one.id, cells.short(one.number)),
                        cells.state(one.status),
                        cells.short(one.charge_reference or one.provider_reference),
                        cells.brief(one.created_at),
                        cells.money(one.captured_minor or None, one.currency),
                        cells.money(one.refunded_minor or None, one.currency),
                    ]
                    for one in order.payments
                ),
            ],
            empty="",
        )
    ]


def _actions_log(actions: Sequence[DiscrepancyAction]) -> Table:
    return Table(
        "What people did",
        ["When", "Who", "What", "Why", "What came of it"],
        [
            [
                cells.brief(one.at),
                cells.strong(one.by),
                cells.beside(
                    one.action.replace("_", " "), "" if one.outcome == Outcome.OK else cells.state(one.outcome)
                ),
                one.note,
                one.result or cells.NOTHING,
            ]
            for one in actions
        ],
        empty="Nobody has done anything about it yet.",
    )


def _history(changes: Sequence[DiscrepancyHistory]) -> Timeline:
    return Timeline(
        "History",
        [
            Entry(one.at, cells.state(one.to_state), cells.who(one.by, one.why), "flag", cells.tone_of(one.to_state))
            for one in changes
        ],
        empty="A run has just found it.",
    )


# --- Runs -------------------------------------------------------------------------------------------


def run_again(run: ReconciliationRun, data: dict[str, Any], by: str) -> str:
    services.request_run(day=run.date, by=by)
    return f"A worker reconciles {run.date:%d %B %Y} now: its run appears among the runs in a moment."


@admin.register(ReconciliationRun)
class ReconciliationRunAdmin(ReadOnlyAdmin[ReconciliationRun]):
    list_display = (
        "date_cell",
        "state_cell",
        "ours",
        "theirs",
        "matched_cell",
        "open_cell",
        "residual_cell",
        "started",
        "took",
    )
    list_filter = (choice_filter("state", [RunState.RUNNING, RunState.COMPLETED, RunState.FAILED]),)
    acts = (
        Act(
            name="again",
            label="Reconcile this day again",
            says="Reads Stripe's books for the day once more and compares them with ours. What agrees now is closed.",
            permission="reconciliation.start_reconciliation",
            run=run_again,
            icon="sync",
        ),
    )

    @admin.display(description="Day")
    def date_cell(self, run: ReconciliationRun) -> SafeString:
        return cells.beside(f"{run.date:%a %d %b %Y}", cells.badge("provisional", "warn") if run.provisional else "")

    @admin.display(description="State")
    def state_cell(self, run: ReconciliationRun) -> SafeString:
        return cells.state(run.state)

    @admin.display(description="Ours")
    def ours(self, run: ReconciliationRun) -> SafeString:
        return _side(run.ours_count, run.ours_totals)

    @admin.display(description="Stripe's")
    def theirs(self, run: ReconciliationRun) -> SafeString:
        return _side(run.theirs_count, run.theirs_totals)

    @admin.display(description="Matched")
    def matched_cell(self, run: ReconciliationRun) -> SafeString:
        return cells.number(run.matched)

    @admin.display(description="Open")
    def open_cell(self, run: ReconciliationRun) -> SafeString:
        return cells.number(_sum(run, "new") + _sum(run, "persisting"))

    @admin.display(description="Residual")
    def residual_cell(self, run: ReconciliationRun) -> SafeString:
        return residual(run)

    @admin.display(description="Started")
    def started(self, run: ReconciliationRun) -> SafeString:
        return cells.sub(cells.moment(run.started_at), f"by {run.by}")

    @admin.display(description="Took")
    def took(self, run: ReconciliationRun) -> str:
        return "—" if run.duration_ms is None else f"{run.duration_ms / 1000:.1f} s"

    def page(self, request: HttpRequest, row: ReconciliationRun) -> Page:
        columns = ("new", "persisting", "resolved", "timing")
        day = Discrepancy.objects.filter(business_date=row.date).order_by("pk")[:100]
        currencies = sorted({*row.ours_totals, *row.theirs_totals})
        return Page(
            title=f"{row.date:%A, %d %B %Y}",
            lead=[cells.state(row.state), cells.badge("provisional", "warn") if row.provisional else ""],
            sub=cells.code(row.number),
            figure=("Residual", residual(row)),
            main=[
                Table(
                    "Both sides, gross",
                    ["Currency", cells.right("Our books"), cells.right("Stripe's books"), cells.right("Difference")],
                    [
                        [
                            currency.upper(),
                            cells.money(row.ours_totals.get(currency, 0), currency),
                            cells.money(row.theirs_totals.get(currency, 0), currency),
                            cells.difference(
                                row.theirs_totals.get(currency, 0) - row.ours_totals.get(currency, 0), currency
                            ),
                        ]
                        for currency in currencies
                    ],
                    empty="Neither side has anything on this day.",
                ),
                Table(
                    "What it found",
                    ["Kind", *(cells.right(name.capitalize()) for name in columns)],
                    [
                        [
                            KINDS[kind].label if kind in KINDS else kind,
                            *(cells.number(counts.get(name, 0)) for name in columns),
                        ]
                        for kind, counts in sorted(row.kinds.items())
                    ],
                    empty="No difference: both sides agree.",
                ),
                Table(
                    "Discrepancies of this day",
                    ["Kind", "Order", "State", cells.right("Difference")],
                    [
                        [
                            cells.link(request, "reconciliation.discrepancy", one.pk, one.get_kind_display()),
                            cells.short(one.order_reference),
                            _state(one),
                            cells.difference(one.difference_minor, one.currency),
                        ]
                        for one in day
                    ],
                    empty="Nothing differs on this day.",
                ),
            ],
            side=[
                Facts(
                    "Run",
                    [
                        ("By", row.by),
                        ("Started", cells.moment(row.started_at)),
                        ("Finished", cells.moment(row.finished_at)),
                        ("Took", self.took(row)),
                        ("Read from Stripe", cells.number(row.imported)),
                        ("Ours", cells.number(row.ours_count)),
                        ("Stripe's", cells.number(row.theirs_count)),
                        ("Matched", cells.number(row.matched)),
                        ("Error", row.error or cells.NOTHING),
                    ],
                )
            ],
        )


def _side(count: int, totals: dict[str, int]) -> SafeString:
    return cells.lines(
        [cells.money(total, currency) for currency, total in sorted(totals.items())] or [cells.number(count)]
    )


def _sum(run: ReconciliationRun, name: str) -> int:
    return sum(counts.get(name, 0) for counts in run.kinds.values())


def residual(run: ReconciliationRun) -> SafeString:
    """What nothing accounts for: each currency that is off, or zero."""
    off = [cells.difference(amount, currency) for currency, amount in sorted(run.residual.items()) if amount]
    return cells.lines(off) if off else cells.badge("0", "good")
