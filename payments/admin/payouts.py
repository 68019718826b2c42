"""Payouts as the finance desk sees them: each with what it pays out, down to the amount that the bank shows."""

from typing import Any

from django.contrib import admin
from django.db.models import Count, Q, Sum
from django.http import HttpRequest
from django.utils.safestring import SafeString

from foundation import cells
from foundation.desk import Act, ReadOnlyAdmin, by_number, choice_filter
from foundation.sections import Entry, Facts, Page, Table, Timeline
from payments import services
from payments.admin.shared import journal_table, money_link, webhooks_table
from payments.models import JournalEntry, Payout, PayoutTransaction
from payments.states import PayoutStatus

_STATES = [value for name, value in vars(PayoutStatus).items() if name.isupper()]
_SHOWN = 200  # transactions on a page: the sums are of all of them


def recheck(payout: Payout, data: dict[str, Any], by: str) -> str:
    services.take_provider_status(payout.number, by=by)
    return "Read at the provider: what it says now stands in our books."


@admin.register(Payout)
class PayoutAdmin(ReadOnlyAdmin[Payout]):
    list_display = ("number_cell", "provider", "status_cell", "arrives", "kind", "amount", "made")
    list_filter = (choice_filter("status", _STATES), choice_filter("currency", ["usd", "eur", "gbp", "jpy"]))
    saved_views = (
        ("All", ""),
        ("On their way", "status=in_transit"),
        ("Paid", "status=paid"),
        ("Failed", "status=failed"),
    )
    search_help_text = "Number of a payout, po_…, or the txn_… of what it pays out"
    acts = (
        Act(
            name="recheck",
            label="Read at the provider",
            says="Asks the provider how this payout stands, and takes over what it says.",
            permission="payments.recheck_payment",
            run=recheck,
            icon="sync",
        ),
    )

    def find(self, text: str) -> Q:
        if text.startswith("po_"):
            return Q(provider_reference=text)
        if text.startswith("txn_"):
            return Q(pk__in=PayoutTransaction.objects.filter(pk=text).values("payout"))
        return by_number(Payout.id_of, text)

    @admin.display(description="Payout")
    def number_cell(self, payout: Payout) -> SafeString:
        return cells.code(payout.number)

    @admin.display(description="At the provider")
    def provider(self, payout: Payout) -> SafeString:
        return cells.short(payout.provider_reference)

    @admin.display(description="Status")
    def status_cell(self, payout: Payout) -> SafeString:
        return cells.state(payout.status)

    @admin.display(description="Arrives")
    def arrives(self, payout: Payout) -> str:
        return f"{payout.arrives_on:%d %b %Y}"

    @admin.display(description="Made")
    def kind(self, payout: Payout) -> str:
        return "by schedule" if payout.automatic else "by hand"

    @admin.display(description="Amount")
    def amount(self, payout: Payout) -> SafeString:
        return cells.money(payout.amount_minor, payout.currency)

    @admin.display(description="Created")
    def made(self, payout: Payout) -> SafeString:
        return cells.moment(payout.provider_created_at)

    def page(self, request: HttpRequest, row: Payout) -> Page:
        history = [
            Entry(one.at, cells.state(one.to_state), cells.who(one.by, one.why), "flag", cells.tone_of(one.to_state))
            for one in row.history.order_by("at", "pk")
        ]
        paid_out = PayoutTransaction.objects.filter(payout=row).exclude(source=row.provider_reference)
        sums = paid_out.aggregate(
            rows=Count("pk"), gross=Sum("amount_minor"), fees=Sum("fee_minor"), net=Sum("net_minor")
        )
        return Page(
            title=cells.code(row.number),
            lead=[cells.state(row.status)],
            sub=cells.beside(cells.code(row.provider_reference), f"· at the bank on {row.arrives_on:%d %B %Y}"),
            figure=("Amount", cells.money(row.amount_minor, row.currency)),
            main=[
                _by_category(row, paid_out),
                _transactions(row, paid_out, sums),
                journal_table(request, JournalEntry.objects.filter(subject=row.number)),
                webhooks_table(request, [row.provider_reference]),
            ],
            side=[
                Facts("Payout", _facts(request, row, sums)),
                Timeline("Status", history, empty="Its status has not changed yet."),
            ],
        )


def _facts(request: HttpRequest, row: Payout, sums: dict[str, Any]) -> list[tuple[str, str | SafeString]]:
    facts: list[tuple[str, str | SafeString]] = [
        ("Made", "by schedule" if row.automatic else "by hand: what it pays out cannot be listed"),
        ("Created", cells.moment(row.provider_created_at)),
        ("Transactions listed", cells.moment(row.listed_at)),
        ("Trace id of the banks", cells.code(row.trace_id)),
        ("Follow the money", money_link(request, row.number)),
    ]
    if row.listed_at:
        net = sums["net"] or 0
        facts += [
            ("Σ net", cells.money(net, row.currency)),
            ("Amount less Σ net", cells.difference(row.amount_minor - net, row.currency)),
        ]
    if row.failure_code:
        facts += [("Failure", cells.code(row.failure_code)), ("The provider says", row.failure_message)]
    return [*facts, ("Next look at the provider", cells.moment(row.next_check_at))]


def _by_category(row: Payout, paid_out: Any) -> Table:
    totals = (
        paid_out.values_list("reporting_category")
        .annotate(Count("pk"), Sum("amount_minor"), Sum("fee_minor"), Sum("net_minor"))
        .order_by("reporting_category")
    )
    return Table(
        "What it is made of",
        ["Category", *(cells.right(name) for name in ("Transactions", "Gross", "Fees", "Net"))],
        [
            [category.replace("_", " "), cells.number(count), *(cells.money(sum_, row.currency) for sum_ in sums)]
            for category, count, *sums in totals
        ],
        empty="Its transactions are not listed yet." if row.automatic else "Made by hand: the provider lists none.",
    )


def _transactions(row: Payout, paid_out: Any, sums: dict[str, Any]) -> Table:
    shown = paid_out.order_by("booked_at", "pk")[:_SHOWN]
    count = sums["rows"]
    return Table(
        "Transactions" if count <= _SHOWN else f"The first {_SHOWN} of {count:,} transactions",
        ["Transaction", "Category", "Of", "Booked", *(cells.right(name) for name in ("Gross", "Fee", "Net"))],
        [
            [
                cells.short(one.pk),
                one.reporting_category.replace("_", " "),
                cells.short(one.source),
                cells.brief(one.booked_at),
                cells.money(one.amount_minor, one.currency),
                cells.money(one.fee_minor or None, one.currency),
                cells.money(one.net_minor, one.currency),
            ]
            for one in shown
        ],
        empty="Nothing is listed.",
        footer=[
            f"All {count:,}",
            "",
            "",
            "",
            *(cells.money(sums[name] or 0, row.currency) for name in ("gross", "fees", "net")),
        ]
        if count
        else (),
    )
