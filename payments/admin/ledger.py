"""The ledger as the finance desk sees it: entries and accounts."""

from typing import Any
from uuid import uuid4

from django import forms
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import URLPattern
from django.utils.safestring import SafeString

from foundation import cells, numbers
from foundation.database import database_now
from foundation.desk import Act, ChoiceFilter, NoteForm, ReadOnlyAdmin, choice_filter
from foundation.sections import Facts, Page, Table
from payments import books, services
from payments.admin import reports
from payments.admin.credit import GRANT, customer_sections, may_be_granted
from payments.admin.shared import order_link
from payments.models import Account, JournalEntry, Payment, Refund
from payments.services.books import ADJUSTABLE, REVERSIBLE

_LINES_SHOWN = 50  # the newest lines of an account; its statement has all of them
_HISTORY_DAYS = 30


class AdjustForm(NoteForm):
    debit = forms.ChoiceField(label="Debit", choices=[(kind.value, kind.label) for kind in ADJUSTABLE])
    credit = forms.ChoiceField(label="Credit", choices=[(kind.value, kind.label) for kind in ADJUSTABLE])
    amount = forms.CharField(
        label="Amount",
        help_text=numbers.explained("As {}, in the entry's currency."),
        widget=forms.TextInput(attrs={"inputmode": "decimal"}),
    )
    press = forms.UUIDField(widget=forms.HiddenInput, initial=uuid4)  # pressed twice, it is posted once
    field_order = ("debit", "credit", "amount", "note")


def adjust(entry: JournalEntry, data: dict[str, Any], by: str) -> str:
    amount_minor = numbers.read(data["amount"], entry.currency)
    services.adjust_entry(
        entry.pk,
        debit=data["debit"],
        credit=data["credit"],
        amount_minor=amount_minor,
        cause=str(data["press"]),
        by=by,
        why=data["note"],
    )
    return f"A correcting entry of {numbers.show(amount_minor, entry.currency)} was posted."


def reverse_entry(entry: JournalEntry, data: dict[str, Any], by: str) -> str:
    services.reverse_entry(entry.pk, by=by, why=data["note"])
    return "The opposite was posted: both entries stay in the books."


@admin.register(JournalEntry)
class JournalEntryAdmin(ReadOnlyAdmin[JournalEntry]):
    list_display = ("kind_cell", "order", "subject_cell", "lines_cell", "amount", "by_cell", "posted")
    search_help_text = "Number of an order, payment or refund"
    acts = (
        Act(
            name="reverse",
            label="Take back",
            says="Posts the opposite of this entry, once. Nothing is deleted.",
            permission="payments.correct_ledger",
            run=reverse_entry,
            icon="undo",
            danger=True,
        ),
        Act(
            name="adjust",
            label="Correct",
            says="Moves an amount between two of our own accounts, in an entry that names this one.",
            permission="payments.correct_ledger",
            run=adjust,
            form=AdjustForm,
            icon="edit_note",
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[JournalEntry]:
        return super().get_queryset(request).prefetch_related("postings__account")

    def find(self, text: str) -> Q:
        return Q(reference=text) if text.startswith("ord_") else Q(subject=text)

    def offered(self, row: JournalEntry) -> list[str]:
        reversible = row.kind in REVERSIBLE and not self._corrections(row).filter(kind="reversal").exists()
        return [*(["reverse"] if reversible else []), "adjust"]

    @admin.display(description="Entry")
    def kind_cell(self, entry: JournalEntry) -> str:
        return entry.kind.replace("_", " ")

    @admin.display(description="Order")
    def order(self, entry: JournalEntry) -> SafeString:
        return cells.short(entry.reference)

    @admin.display(description="Of")
    def subject_cell(self, entry: JournalEntry) -> SafeString:
        return cells.short(entry.subject)

    @admin.display(description="Debit, credit")
    def lines_cell(self, entry: JournalEntry) -> SafeString:
        signed = sorted(entry.postings.all(), key=lambda posting: -posting.amount_minor)
        return cells.lines(f"{'Dr' if one.amount_minor > 0 else 'Cr'} {one.account!s}" for one in signed)

    @admin.display(description="Amount")
    def amount(self, entry: JournalEntry) -> SafeString:
        return cells.money(
            sum(one.amount_minor for one in entry.postings.all() if one.amount_minor > 0), entry.currency
        )

    @admin.display(description="By")
    def by_cell(self, entry: JournalEntry) -> str:
        return entry.by

    @admin.display(description="Posted")
    def posted(self, entry: JournalEntry) -> SafeString:
        return cells.moment(entry.created_at)

    def page(self, request: HttpRequest, row: JournalEntry) -> Page:
        postings = list(row.postings.all())
        debit = sum(one.amount_minor for one in postings if one.amount_minor > 0)
        return Page(
            title=row.kind.replace("_", " ").capitalize(),
            lead=[cells.badge("balanced", "good")] if not sum(one.amount_minor for one in postings) else [],
            sub=cells.code(row.key),
            figure=("Amount", cells.money(debit, row.currency)),
            main=[
                Table(
                    "Lines",
                    ["Account", cells.right("Debit"), cells.right("Credit")],
                    [
                        [
                            cells.link(request, "payments.account", one.account_id, str(one.account)),
                            cells.money(one.amount_minor, row.currency) if one.amount_minor > 0 else "",
                            cells.money(-one.amount_minor, row.currency) if one.amount_minor < 0 else "",
                        ]
                        for one in postings
                    ],
                    empty="An entry has two lines at least.",
                    footer=["Total", cells.money(debit, row.currency), cells.money(debit, row.currency)],
                ),
                Table(
                    "Corrected by",
                    ["Entry", "By", "Why", "Posted"],
                    [
                        [
                            cells.link(request, "payments.journalentry", one.pk, one.kind),
                            one.by,
                            one.memo,
                            cells.moment(one.created_at),
                        ]
                        for one in self._corrections(row).order_by("pk")
                    ],
                    empty="Nothing corrects this entry.",
                ),
            ],
            side=[
                Facts(
                    "Entry",
                    [
                        ("Order", order_link(request, row.reference) if row.reference else cells.NOTHING),
                        ("Of", self._subject(request, row.subject)),
                        ("Corrects", self._corrected(request, row)),
                        ("Memo", row.memo or cells.NOTHING),
                        ("By", row.by),
                        ("Posted", cells.moment(row.created_at)),
                        ("Cause", cells.code(row.key)),
                    ],
                )
            ],
        )

    def _corrections(self, entry: JournalEntry) -> QuerySet[JournalEntry]:
        return JournalEntry.objects.filter(corrects=entry)

    def _corrected(self, request: HttpRequest, entry: JournalEntry) -> SafeString:
        if entry.corrects is None:
            return cells.NOTHING
        return cells.link(request, "payments.journalentry", entry.corrects.pk, cells.code(entry.corrects.key))

    def _subject(self, request: HttpRequest, number: str) -> SafeString:
        if number.startswith("pay_"):
            return cells.link(request, "payments.payment", Payment.id_of(number), cells.short(number))
        if number.startswith("ref_"):
            return cells.link(request, "payments.refund", Refund.id_of(number), cells.short(number))
        return cells.code(number)


class AccountKindFilter(ChoiceFilter):
    title = "kind"
    parameter_name = "kind"
    field = "kind"
    options = Account.Kind.values


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin[Account]):
    list_display = ("name", "currency_cell", "balance")
    list_filter = (AccountKindFilter, choice_filter("currency", ["usd", "eur", "gbp", "jpy"]))
    saved_views = (
        ("All", ""),
        ("Provider clearing", "kind=provider_clearing"),
        ("Merchants", "kind=merchant_payable"),
        ("Customers", "kind=customer"),
        ("Fees", "kind=fees"),
        ("Refunds in flight", "kind=refunds_in_flight"),
        ("Write-offs", "kind=write_offs"),
        ("Store credit", "kind=store_credit"),
        ("Points", "kind=points"),
    )
    search_help_text = "A customer's id"
    acts = (GRANT,)

    def find(self, text: str) -> Q:
        return Q(customer=text)

    def offered(self, row: Account) -> list[str]:
        return [GRANT.name] if may_be_granted(row) else []

    def prepare(self, rows: list[Account]) -> None:
        kept = books.balances([row.pk for row in rows])
        for row in rows:
            row.shown_minor = kept[row.pk]  # type: ignore[attr-defined]

    def get_urls(self) -> list[URLPattern]:
        return [*reports.urls(self), *super().get_urls()]

    @admin.display(description="Account")
    def name(self, account: Account) -> str:
        return str(account)

    @admin.display(description="Currency")
    def currency_cell(self, account: Account) -> str:
        return account.currency.upper()

    @admin.display(description="Balance")
    def balance(self, account: Account) -> SafeString:
        return reports.balance_cell(account.shown_minor, account.currency)  # type: ignore[attr-defined]

    def page(self, request: HttpRequest, row: Account) -> Page:
        now = database_now()
        moments = books.day_ends(now, _HISTORY_DAYS)
        history = books.balance_history(row.pk, moments)
        newest = books.newest_lines(row.pk, limit=_LINES_SHOWN)
        return Page(
            title=str(row),
            lead=[cells.badge(row.currency.upper())],
            sub=cells.code(str(row.pk)),
            figure=("Balance", reports.balance_cell(books.balance(row.pk), row.currency)),
            main=[
                *customer_sections(request, row),
                reports.history_chart(row.currency, moments, history),
                reports.lines_table(
                    request, f"The newest {_LINES_SHOWN} lines", newest, row.currency, link=reports.statement_link(row)
                ),
            ],
        )
