"""Discrepancies on the finance desk: ours beside theirs, and what can be done about the difference."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from foundation import cells
from foundation.database import database_now
from foundation.desk import Act, ActForm, ReadOnlyAdmin, by_number, choice_filter
from foundation.ids import parse_public_id
from foundation.sections import Cell, Custom, Entry, Facts, Page, Section, Table, Text, Timeline
from orders.types import OrderView
from reconciliation import offers, selectors
from reconciliation.admin import approvals, plans, shared
from reconciliation.admin.acts import act_of
from reconciliation.admin.filters import AgeFilter, CurrencyFilter, KindFilter, OwnerFilter, StateFilter
from reconciliation.admin.shared import SEVERITY, linked, order_link, run_link, state, walk_link
from reconciliation.models import Discrepancy, DiscrepancyAction, DiscrepancyHistory, Match, ProviderTransaction
from reconciliation.states import OPEN_STATES, DiscrepancyState, Outcome
from reconciliation.types import ACTIONS, BY_RULES, KINDS, Action, Candidate, Proved, Severity, info_of

_CELL_SHOWN = 500  # letters of what came


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
        ("Waiting for a second person", "state=awaiting_approval"),
        ("Timing", "state=timing"),
        ("Ignored", "state=ignored"),
        ("Resolved", "state=resolved"),
        ("All", "state=all"),
    )
    search_help_text = "Number of an order or discrepancy, or ch_…, re_…"
    acts = (
        *approvals.ACTS,
        *(act_of(info) for info in {info.name: info for infos in ACTIONS.values() for info in infos}.values()),
    )

    actions = ("act_on_chosen",)

    def get_urls(self) -> list[URLPattern]:
        return [*plans.urls(self), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return super().changelist_view(
            request, {"bulk_url": f"plan/?{request.GET.urlencode()}", **(extra_context or {})}
        )

    @admin.action(description="Act on the chosen ones…")
    def act_on_chosen(self, request: HttpRequest, rows: QuerySet[Discrepancy]) -> HttpResponseRedirect:
        """To the page that says what can be done to them, and plans it."""
        if request.POST.get("select_across") == "1":
            return HttpResponseRedirect(f"plan/?{request.GET.urlencode()}")
        chosen = rows.values_list("pk", flat=True)[: self.list_per_page]
        return HttpResponseRedirect(f"plan/?{urlencode([(plans.CHOSEN, str(pk)) for pk in chosen])}")

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
        return shared.age(item.__dict__["age_days"])

    @admin.display(description="Severity")
    def severity_cell(self, item: Discrepancy) -> SafeString:
        return cells.badge(item.severity, SEVERITY[item.severity])

    @admin.display(description="State")
    def state_cell(self, item: Discrepancy) -> SafeString:
        return state(item)

    @admin.display(description="Owner")
    def owner_cell(self, item: Discrepancy) -> str:
        return item.owner or "—"

    # --- The page ---

    def offered(self, row: Discrepancy) -> list[str]:
        return [*approvals.offered(row), *(info.name for info in offers.offered_actions(row))]

    def suggested(self, request: HttpRequest, row: Discrepancy) -> str:
        allowed = [info for info in offers.offered_actions(row) if request.user.has_perm(info.permission)]
        repairs = [
            info for info in allowed if info.repairs and info.name != Action.WRITE_OFF
        ]  # a loss suggests itself never
        return next((info.name for info in [*repairs, *allowed]), "")

    def act_form(self, act: Act[Discrepancy], row: Discrepancy) -> ActForm:
        initial: dict[str, Any] = {"key": uuid4(), "order_number": row.order_reference}
        if act.name == Action.LINK_BANK_LINE and len(row.evidence.get("candidates", [])) == 1:
            initial["counterpart"] = row.evidence["candidates"][0]["number"]
        if act.name == Action.CLAIM:
            initial["note"] = "I look into it."
        form = act.form(prefix=act.name, initial=initial)
        if "order_number" in form.fields and not row.order_reference:
            orders = self._once(row, offers.candidate_orders)
            _suggest(form, "order_number", dict(map(_order_words, orders)))
        if "number" in form.fields:
            near = dict(_candidate_words(one) for one in offers.candidates_of(row) if one.side == "ours")  # best first
            others = dict(map(_movement_words, self._once(row, offers.candidate_movements)))
            _suggest(form, "number", near | {number: words for number, words in others.items() if number not in near})
        return form

    def _once(self, row: Discrepancy, find: Callable[[Discrepancy], Iterable[Any]]) -> Iterable[Any]:
        """Read once a page, however many forms suggest the same."""
        known: dict[Any, Iterable[Any]] = row.__dict__.setdefault("candidates", {})
        if find not in known:
            known[find] = find(row)
        return known[find]

    def page(self, request: HttpRequest, row: Discrepancy) -> Page:
        found = selectors.discrepancy_page(row.pk)
        item = found.item
        return Page(
            title=found.info.label,
            lead=[state(item), cells.badge(item.severity, SEVERITY[item.severity])],
            sub=cells.beside(
                cells.code(item.number), f"· of {item.business_date:%d %b %Y}", shared.age(found.age_days)
            ),
            previous=self._neighbour(item, forward=False),
            next=self._neighbour(item, forward=True),
            main=[
                _compare(request, item),
                *_proposed(request, item),
                *approvals.section(item),
                *_proposals(request, item, found.proposals),
                _actions_log(found.actions),
                *_order(request, found.order),
                *_candidates_table(request, found.candidates),
                _transactions(found.transactions),
                *_told(found.told),
                self._facts(request, item, found.match),
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

    def _facts(self, request: HttpRequest, row: Discrepancy, match: Match | None) -> Facts:
        facts: list[tuple[str, Cell]] = [
            ("Owner", row.owner or cells.NOTHING),
            ("Answered for by", f"{row.period:%B %Y}" if row.period else cells.NOTHING),
            ("Order", order_link(request, row.order_reference)),
            ("Payment", linked(request, "payments.payment", row.payment_id, row.payment_number)),
            ("Refund", linked(request, "payments.refund", row.refund_id, row.refund_number)),
            ("The bank's, or Stripe's" if row.object_kind == "bank" else "Stripe's object", cells.code(row.source)),
            ("Follow the money", walk_link(request, row.source if row.object_kind != "statement" else "")),
            ("Intent", cells.code(row.intent)),
            ("Incident", shared.incident_link(request, row.incident_id)),
            ("Matched by", _matched_by(row, match)),
            (
                "First seen",
                cells.lines(
                    [
                        run_link(request, row.first_seen_run) if row.first_seen_run else "",
                        cells.moment(row.first_seen_at),
                    ]
                ),
            ),
            ("Last seen", run_link(request, row.last_seen_run)),
        ]
        if row.becomes_break_at:
            facts.append(("Why it may be timing", str(row.evidence.get("timing", ""))))
            facts.append(("Becomes a break", cells.moment(row.becomes_break_at)))
        if row.ignored_until:
            facts.append(("Ignored until", f"{row.ignored_until:%d %b %Y}"))
        if row.state == DiscrepancyState.RESOLVED:
            facts.append(("Closed", cells.beside(row.closed_as, "by", row.resolved_by or "a run")))
            facts.append(("Closed at", cells.moment(row.resolved_at)))
            verified = cells.beside(run_link(request, row.verified_by_run), cells.moment(row.verified_at))
            facts.append(("Confirmed by a later look", verified if row.verified_at else "not yet"))
        return Facts("Item", facts)


def _suggest(form: ActForm, name: str, options: Mapping[str, str]) -> None:
    """Candidates to choose from beside the field, what each is in words; any other can be typed."""
    if not options:
        return
    field = form.fields[name]
    list_id = f"{form.prefix}-{name}-candidates"
    field.widget.attrs["list"] = list_id
    field.help_text = format_html(
        '{} candidates: choose one, or type another.<datalist id="{}">{}</datalist>',
        len(options),
        list_id,
        format_html_join("", '<option value="{}">{}</option>', options.items()),
    )


def _order_words(order: OrderView) -> tuple[str, str]:
    return order.number, f"{order.customer.id}, {order.status}, {order.created_at:%d %b %H:%M}"


def _candidate_words(one: Candidate) -> tuple[str, str]:
    agrees = ", ".join(one.agrees)
    return one.number, f"order {one.order_reference or 'unknown'}, {one.at:%d %b %H:%M}; agrees: {agrees}"


def _movement_words(item: Discrepancy) -> tuple[str, str]:
    number = item.refund_number or item.payment_number
    return number, f"{item.source}, of {item.business_date:%d %b}, order {item.order_reference or 'unknown'}"


def _candidates_table(request: HttpRequest, candidates: Sequence[OrderView]) -> list[Section]:
    if not candidates:
        return []
    return [
        Table(
            "Orders that it may belong to",
            ["Order", "Customer", "Status", "Placed", cells.right("Asks for")],
            [
                [
                    cells.link(request, "orders.order", one.id, cells.code(one.number)),
                    one.customer.id,
                    cells.state(one.status),
                    cells.brief(one.created_at),
                    cells.money(one.total_minor, one.currency),
                ]
                for one in candidates
            ],
            empty="",
        )
    ]


def _compare(request: HttpRequest, row: Discrepancy) -> Custom:
    ours, theirs = row.ours_amount_minor is not None, row.theirs_amount_minor is not None
    both = ours and theirs
    us, them, their_books = "Our books", "Stripe", "Stripe's books"
    if row.object_kind == "bank":
        them, their_books = "The bank", "The bank's books"
    elif row.evidence.get("proof") == Proved.BALANCE:
        us, their_books = "What Stripe's rows add up to", "The balance that Stripe tells"
    has_status = both and row.object_kind != "bank"  # a bank's line has none
    sides = [
        {
            "name": us,
            "there": ours,
            "missing": f"{us} hold nothing for this.",
            "amount": cells.money(row.ours_amount_minor, row.ours_currency),
            "facts": [
                ("Status", cells.state(row.ours_status), has_status and row.ours_status != row.theirs_status),
                ("Currency", row.ours_currency.upper(), both and row.ours_currency != row.theirs_currency),
                ("At", cells.moment(row.ours_at), False),
                ("Number", _own_number(request, row), False),
            ],
        },
        {
            "name": their_books,
            "there": theirs,
            "missing": f"{their_books} hold nothing for this.",
            "amount": cells.money(row.theirs_amount_minor, row.theirs_currency),
            "facts": [
                ("Status", cells.state(row.theirs_status), has_status and row.ours_status != row.theirs_status),
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
            "who_has_more": _who_has_more(row.difference_minor, them),
            "difference": cells.difference(row.difference_minor, row.currency),
            "explanation": info_of(row.kind, row.object_kind).explanation,
            "is_past": row.state == DiscrepancyState.RESOLVED,
            "sides": sides,
        },
    )


def _who_has_more(difference_minor: int | None, them: str) -> str:
    if difference_minor is None:
        return "Cannot be told"
    return "Difference" if not difference_minor else f"{them} has {'more' if difference_minor > 0 else 'less'}"


def _proposed(request: HttpRequest, row: Discrepancy) -> list[Section]:
    """What may be the other side of a payout or a bank line, best first, each with what speaks against it."""
    if row.object_kind != "bank" or not row.evidence.get("candidates"):
        return []
    return [
        Table(
            "What it may be",
            ["Number", "Date", "Speaks against it", cells.right("Amount")],
            [
                [
                    walk_link(request, one["number"], cells.code(one["number"])),
                    one["on"],
                    ", ".join(one["differs"]) or "nothing but that it is not the only one",
                    cells.money(one["amount_minor"], one["currency"]),
                ]
                for one in row.evidence["candidates"]
            ],
            empty="Nothing comes near it.",
        )
    ]


def _matched_by(row: Discrepancy, match: Match | None) -> Cell:
    """Why both sides are taken for one movement; where they agree by now, as that match says."""
    both = row.ours_at is not None and row.theirs_at is not None  # what one side alone knows is matched with nothing
    rule = match.rule if match else str(row.evidence.get("matched_by", "")) if both else ""
    return cells.sub(rule.replace("_", " "), BY_RULES.get(rule, "")) if rule else cells.NOTHING


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


def _told(told: Mapping[str, Mapping[str, Any]]) -> list[Text]:
    """The vouchers behind Stripe's rows: what it told by then, in the words in which it came."""
    said = ({name: _short(value) for name, value in one.items() if value not in ("", None)} for one in told.values())
    words = [json.dumps(one, indent=1, ensure_ascii=False) for one in said]
    return [Text("As Stripe told it", "\n".join(words))] if words else []


def _short(value: Any) -> Any:
    return f"{value[:_CELL_SHOWN]}…" if isinstance(value, str) and len(value) > _CELL_SHOWN else value


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


def _proposals(request: HttpRequest, row: Discrepancy, found: Sequence[Candidate]) -> list[Section]:
    """What it may be on the other side. The first fits best; the second says how sure that is."""
    if not found:
        return []
    return [
        Table(
            "What it may be in our books" if found[0].side == "ours" else "What it may be in Stripe's books",
            ["Candidate", "Order", "At", cells.right("Amount"), "Agrees", "Differs"],
            [
                [
                    cells.sub(_candidate_link(request, row, one), _place(place)),
                    order_link(request, one.order_reference) if one.order_reference else cells.NOTHING,
                    cells.brief(one.at),
                    cells.money(one.amount_minor, one.currency),
                    cells.lines(one.agrees),
                    cells.lines(one.differs),
                ]
                for place, one in enumerate(found)
            ],
            empty="",
        )
    ]


def _candidate_link(request: HttpRequest, row: Discrepancy, one: Candidate) -> SafeString:
    if one.number:
        model, prefix = ("payments.refund", "ref") if row.object_kind == "refund" else ("payments.payment", "pay")
        return cells.link(request, model, parse_public_id(prefix, one.number), cells.short(one.number))
    address = reverse("admin:reconciliation_discrepancy_changelist")  # its own item is where it is linked
    return cells.anchor(f"{address}?{urlencode({'q': one.source})}", cells.short(one.source))


def _place(place: int) -> str:
    return "fits best" if place == 0 else "runner-up" if place == 1 else ""


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
