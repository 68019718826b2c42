"""Matches on the finance desk: which record is which, and why; and what a merchant's records may differ by."""

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString

from catalog import selectors as catalog
from foundation import cells, numbers
from foundation.desk import Act, ChoiceFilter, NoteForm, ReadOnlyAdmin, choice_filter
from foundation.money import EXPONENTS
from foundation.sections import Cell, Facts, Page
from reconciliation import selectors, services
from reconciliation.models import Match, Tolerance
from reconciliation.types import BY_RULES, NUMBER_PREFIXES, Rule

_PAGES = {
    "charge": "payments.payment",
    "refund": "payments.refund",
    "dispute": "payments.dispute",
    "payout": "payments.payout",
}


class HowFilter(ChoiceFilter):
    """Those that a person may want to look at; equal ids are all the others."""

    title = "matched by"
    parameter_name = "rule"
    options = tuple(rule for rule in BY_RULES if rule != Rule.ID)
    within = "within a tolerance"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [*super().lookups(request, model_admin), ("tolerated", self.within)]

    def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        if value == "tolerated":
            return rows.filter(tolerance_minor__isnull=False)
        return rows.filter(rule=value) if value in self.options else rows.none()


def _end_link(row: Match, data: dict[str, Any], by: str) -> str:
    services.end_link(object_kind=row.object_kind, source=row.source, by=by, why=data["note"])
    return "They are two again: the next run of that day says what each of them is."


@admin.register(Match)
class MatchAdmin(ReadOnlyAdmin[Match]):
    list_display = ("object_cell", "number_cell", "rule_cell", "amount", "difference", "theirs_cell")
    list_filter = (HowFilter,)
    saved_views = (
        ("All", ""),
        ("By metadata", "rule=metadata"),
        ("By amount and date", "rule=amount_and_date"),
        ("Linked by people", "rule=person"),
        ("Within a tolerance", "rule=tolerated"),
    )
    search_help_text = "ch_…, re_…, dp_…, po_…"
    acts = (
        Act(
            name="end-link",
            label="They are not the same",
            says="Ends what a person linked. The next run looks at both sides anew, and tells what is missing where.",
            permission="reconciliation.repair_discrepancy",
            run=_end_link,
            form=NoteForm,
            icon="link_off",
        ),
    )

    def offered(self, row: Match) -> list[str]:
        return ["end-link"] if row.rule == Rule.PERSON and selectors.linked_by(row) else []

    def find(self, text: str) -> Q:
        return Q(pk__in=[f"{kind}:{text}" for kind in NUMBER_PREFIXES])

    def _row(self, request: HttpRequest, object_id: str) -> Match:
        """Django takes `_1a` in an address for an escaped character; in an id of Stripe's it is what it is."""
        return super()._row(request, quote(object_id) if Match.objects.filter(pk=object_id).exists() else object_id)

    @admin.display(description="Stripe's object")
    def object_cell(self, row: Match) -> SafeString:
        return cells.sub(cells.short(row.source), row.object_kind)

    @admin.display(description="Ours")
    def number_cell(self, row: Match) -> SafeString:
        return cells.short(row.number)

    @admin.display(description="Matched by")
    def rule_cell(self, row: Match) -> SafeString:
        return cells.badge(row.get_rule_display(), "quiet" if row.rule == Rule.ID else "info")

    @admin.display(description="Stripe's amount")
    def amount(self, row: Match) -> SafeString:
        return cells.money(row.theirs_minor, row.currency)

    @admin.display(description="Difference")
    def difference(self, row: Match) -> SafeString:
        return (
            cells.NOTHING_RIGHT if row.tolerance_minor is None else cells.difference(row.difference_minor, row.currency)
        )

    @admin.display(description="Day")
    def theirs_cell(self, row: Match) -> str:
        return f"{row.theirs_on:%d %b %Y}"

    def page(self, request: HttpRequest, row: Match) -> Page:
        tolerated: list[tuple[str, Cell]] = []
        if row.tolerance_minor is not None:
            tolerated = [
                ("Difference", cells.difference(row.difference_minor, row.currency)),
                ("Passed within", cells.money(row.tolerance_minor, row.currency)),
            ]
        return Page(
            title=f"{row.source} is {row.number}",
            lead=[cells.badge(row.get_rule_display(), "info")],
            sub=BY_RULES[row.rule],
            main=[
                Facts(
                    "Both sides",
                    [
                        ("Stripe's object", cells.code(row.source)),
                        ("Stripe's amount", cells.money(row.theirs_minor, row.currency)),
                        ("Booked at Stripe on", f"{row.theirs_on:%d %b %Y}"),
                        ("Ours", cells.link(request, _PAGES[row.object_kind], row.ours_id, cells.code(row.number))),
                        ("Known to us as", cells.code(row.ours_source or row.source)),
                        ("Our amount", cells.money(row.ours_minor, row.currency)),
                        ("Booked here on", f"{row.ours_on:%d %b %Y}"),
                        *tolerated,
                    ],
                )
            ],
            side=[
                Facts("Match", [("Why", BY_RULES[row.rule]), *_linked_by(row), ("Since", cells.moment(row.matched_at))])
            ],
        )


def _linked_by(row: Match) -> list[tuple[str, Cell]]:
    link = selectors.linked_by(row) if row.rule == Rule.PERSON else None
    return [("Linked by", cells.sub(link.by, link.why))] if link else []


# --- Tolerances -------------------------------------------------------------------------------------


class ToleranceForm(NoteForm):
    merchant = forms.ChoiceField(
        label="Merchant", choices=lambda: [(str(pk), name) for pk, name in catalog.some_merchant_names()]
    )
    currency = forms.ChoiceField(label="Currency", choices=[(name, name.upper()) for name in EXPONENTS], initial="usd")
    amount = forms.CharField(
        label="Up to",
        help_text=numbers.explained("As {}. A payment or refund that differs by no more counts as matched."),
        widget=forms.TextInput(attrs={"inputmode": "decimal"}),
    )
    field_order = ("merchant", "currency", "amount", "note")


def _set(row: None, data: dict[str, Any], by: str) -> str:
    services.set_tolerance(
        merchant_id=data["merchant"],
        currency=data["currency"],
        amount_minor=numbers.read(data["amount"], data["currency"]),
        by=by,
        note=data["note"],
    )
    return "Runs follow it from now on."


def _end(row: Tolerance, data: dict[str, Any], by: str) -> str:
    services.end_tolerance(tolerance_id=row.pk, by=by, note=data["note"])
    return "It has ended: what it let pass is a difference again as soon as a run looks at it."


_SET: Act[Any] = Act(
    name="set",
    label="Set a tolerance",
    says="Lets small differences of a merchant's payments and refunds pass. Each stays visible, and stands in the statement.",
    permission="reconciliation.set_tolerance",
    run=_set,
    form=ToleranceForm,
    icon="add",
)


@admin.register(Tolerance)
class ToleranceAdmin(ReadOnlyAdmin[Tolerance]):
    list_display = ("merchant", "currency_cell", "amount", "state_cell", "set_by", "since_cell")
    list_filter = (choice_filter("currency", ["usd", "eur", "gbp", "jpy"]),)
    list_links = (("new/", "Set a tolerance"),)
    acts = (
        Act(
            name="end",
            label="End it",
            says="From now on every cent of difference is told again.",
            permission="reconciliation.set_tolerance",
            run=_end,
            icon="block",
        ),
    )

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.new_view)
        return [path("new/", view, name="reconciliation_tolerance_new"), *super().get_urls()]

    def new_view(self, request: HttpRequest) -> HttpResponseBase:
        page = Page(title="Set a tolerance", sub="None is the default: every cent of difference is told.")
        return self.act_of_none(request, _SET, page, then=reverse("admin:reconciliation_tolerance_changelist"))

    def prepare(self, rows: list[Tolerance]) -> None:
        names = catalog.merchant_names({row.merchant_id for row in rows})
        for row in rows:
            row.__dict__["merchant_name"] = names.get(row.merchant_id, "")

    def offered(self, row: Tolerance) -> list[str]:
        return [] if row.ended_at else ["end"]

    @admin.display(description="Merchant")
    def merchant(self, row: Tolerance) -> str:
        return str(row.__dict__["merchant_name"])

    @admin.display(description="Currency")
    def currency_cell(self, row: Tolerance) -> str:
        return row.currency.upper()

    @admin.display(description="Up to")
    def amount(self, row: Tolerance) -> SafeString:
        return cells.money(row.amount_minor, row.currency)

    @admin.display(description="State")
    def state_cell(self, row: Tolerance) -> SafeString:
        return cells.badge("ended") if row.ended_at else cells.badge("in force", "good")

    @admin.display(description="Set by")
    def set_by(self, row: Tolerance) -> str:
        return row.by

    @admin.display(description="Since")
    def since_cell(self, row: Tolerance) -> SafeString:
        return cells.moment(row.since)

    def page(self, request: HttpRequest, row: Tolerance) -> Page:
        name = catalog.get_merchant(row.merchant_id).name
        return Page(
            title=f"Tolerance of {name}, {row.currency.upper()}",
            lead=[self.state_cell(row)],
            figure=("Up to", cells.money(row.amount_minor, row.currency)),
            main=[
                Facts(
                    "Tolerance",
                    [
                        ("Merchant", cells.link(request, "catalog.merchant", row.merchant_id, name)),
                        ("Set by", row.by),
                        ("Why", row.note),
                        ("Since", cells.moment(row.since)),
                        ("Ended", cells.moment(row.ended_at)),
                        ("Ended by", row.ended_by or cells.NOTHING),
                        ("Why it ended", row.ended_why or cells.NOTHING),
                    ],
                )
            ],
        )
