"""Lines of our bank on the desk: what each says, which payout it is, and the walk from there to the orders."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest
from django.urls import URLPattern
from django.utils.safestring import SafeString

from foundation import cells
from foundation.desk import Act, ChoiceFilter, NoteForm, ReadOnlyAdmin, by_number, choice_filter
from foundation.sections import Entry, Facts, Page, Section, Text, Timeline
from reconciliation import services
from reconciliation.admin import walks
from reconciliation.admin.shared import walk_link
from reconciliation.bank import chain
from reconciliation.models import BankLine, BankMatch, Discrepancy, RawRow
from reconciliation.types import Kind

_HOW = {"trace_id": "by trace id", "amount_and_date": "by amount and date", "person": "by a person"}


class LinkForm(NoteForm):
    payout = forms.CharField(label="Payout", max_length=255, help_text="Its number: pot_…, or the provider's po_….")
    field_order = ("payout", "note")


def link(line: BankLine, data: dict[str, Any], by: str) -> str:
    services.link_bank_line(line=line.number, payout=data["payout"].strip(), by=by, why=data["note"])
    return "The line is this payout now. What agrees is closed."


def unlink(line: BankLine, data: dict[str, Any], by: str) -> str:
    services.unlink_bank_line(line=line.pk, by=by, why=data["note"])
    return "The line is no payout any more. What differs now is found."


class PayoutFilter(ChoiceFilter):
    """Lines that are a payout, and those that are none."""

    title = "payout"
    parameter_name = "payout"
    options = ("matched", "none")

    def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        live = Exists(BankMatch.objects.filter(line=OuterRef("pk"), ended_at=None))
        return rows.filter(live if value == "matched" else ~live)


class ProviderFilter(ChoiceFilter):
    """Lines that name the provider."""

    title = "from the provider"
    parameter_name = "of_provider"
    options = ("yes",)

    def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        return rows.filter(of_provider=True)


@admin.register(BankLine)
class BankLineAdmin(ReadOnlyAdmin[BankLine]):
    list_display = ("booked", "says", "account_cell", "payout_cell", "amount")
    list_filter = (ProviderFilter, PayoutFilter, choice_filter("currency", ["usd", "eur", "gbp", "jpy"]))
    saved_views = (
        ("All", ""),
        ("From the provider", "of_provider=yes"),
        ("From the provider, without a payout", "of_provider=yes&payout=none"),
    )
    search_help_text = "Number of a line, or the bank's own reference"
    acts = (
        Act(
            name="link",
            label="Link to a payout",
            says="Says that this line is a payout's money. It can be taken back. No money moves, no entry is posted.",
            permission="reconciliation.repair_discrepancy",
            run=link,
            form=LinkForm,
            icon="link",
        ),
        Act(
            name="unlink",
            label="Take the link back",
            says="This line is not that payout. The two are not put together again by themselves.",
            permission="reconciliation.repair_discrepancy",
            run=unlink,
            icon="link_off",
        ),
    )

    def get_urls(self) -> list[URLPattern]:
        return [*walks.urls(self), *super().get_urls()]

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        return ("-booked_on", "-pk")

    def find(self, text: str) -> Q:
        return by_number(BankLine.id_of, text) if text.startswith("bnk_") else Q(reference=text) & ~Q(reference="")

    def prepare(self, rows: list[BankLine]) -> None:
        live = BankMatch.objects.filter(line__in=rows, ended_at=None)
        by_line = {match.line_id: match for match in live}
        payouts = chain.payouts([match.payout_id for match in by_line.values()])
        for row in rows:
            match = by_line.get(row.pk)
            row.__dict__["payout"] = payouts.get(match.payout_id) if match else None

    def offered(self, row: BankLine) -> list[str]:
        return ["link"] if chain.match_of(row) is None else ["unlink"]

    @admin.display(description="Booked")
    def booked(self, line: BankLine) -> str:
        return f"{line.booked_on:%d %b %Y}"

    @admin.display(description="Says")
    def says(self, line: BankLine) -> SafeString:
        return cells.sub(line.counterparty or line.text[:80] or "—", line.reference or line.number)

    @admin.display(description="Account")
    def account_cell(self, line: BankLine) -> SafeString:
        return cells.code(line.account)

    @admin.display(description="Payout")
    def payout_cell(self, line: BankLine) -> SafeString:
        payout = line.__dict__["payout"]
        if payout:
            return cells.short(payout.number)
        return cells.badge("none", "warn") if line.of_provider else cells.NOTHING

    @admin.display(description="Amount")
    def amount(self, line: BankLine) -> SafeString:
        return cells.money(line.amount_minor, line.currency)

    def page(self, request: HttpRequest, row: BankLine) -> Page:
        match = chain.match_of(row)
        payout = chain.payouts([match.payout_id]).get(match.payout_id) if match else None
        raw = RawRow.objects.filter(pk=row.sha256).first()
        facts: list[tuple[str, str | SafeString]] = [
            ("Account", cells.code(row.account)),
            ("Booked", f"{row.booked_on:%d %b %Y}"),
            ("Value date", f"{row.valued_on:%d %b %Y}" if row.valued_on else cells.NOTHING),
            ("The bank's reference", cells.code(row.reference)),
            ("Other references", cells.lines([cells.code(one) for one in row.references.split()])),
            ("Names the provider", "yes" if row.of_provider else "no"),
            ("Follow the money", walk_link(request, row.number)),
            ("Discrepancies", _discrepancies(request, row)),
            (
                "File",
                cells.beside(
                    cells.link(request, "reconciliation.statementfile", row.file_id, row.file.name), f"line {row.line}"
                ),
            ),
        ]
        main: list[Section] = [
            Facts(
                "What it says", [("Other side", row.counterparty or cells.NOTHING), ("Text", row.text or cells.NOTHING)]
            )
        ]
        if payout and match:
            main.append(
                Facts(
                    "Payout",
                    [
                        ("Payout", cells.link(request, "payments.payout", payout.id, cells.short(payout.number))),
                        ("Matched", f"{_HOW[match.how]}: {match.why}"),
                        ("By", cells.beside(cells.who(match.by), cells.moment(match.made_at))),
                        ("It is the payout's", match.leg),
                        ("The payout", cells.money(payout.amount_minor, payout.currency)),
                        ("By our ledger at the bank", cells.money(payout.booked_minor, payout.currency)),
                    ],
                )
            )
        main.append(Text("As it stood in the file", raw.body if raw else "It is not there any more."))
        return Page(
            title=cells.code(row.number),
            lead=[
                cells.badge("a payout", "good")
                if payout
                else cells.badge("no payout", "warn" if row.of_provider else "quiet")
            ],
            sub=f"booked on {row.booked_on:%d %B %Y}",
            figure=("Amount", cells.money(row.amount_minor, row.currency)),
            main=main,
            side=[Facts("Line", facts), _history(row)],
        )


def _discrepancies(request: HttpRequest, row: BankLine) -> SafeString:
    found = Discrepancy.objects.filter(fingerprint=f"{Kind.BANK_LINE_UNEXPLAINED}:{row.number}").first()
    if found is None:
        return cells.NOTHING
    return cells.link(
        request, "reconciliation.discrepancy", found.pk, cells.beside(cells.short(found.number), found.state)
    )


def _history(row: BankLine) -> Timeline:
    entries = []
    for match in row.matches.order_by("made_at"):
        entries.append(Entry(match.made_at, _HOW[match.how], cells.who(match.by, match.why), "link", "good"))
        if match.ended_at:
            entries.append(
                Entry(match.ended_at, "taken back", cells.who(match.ended_by, match.ended_why), "link_off", "warn")
            )
    return Timeline("Matches", sorted(entries, key=lambda entry: entry.at), empty="It was never matched with a payout.")
