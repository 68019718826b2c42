"""The ledger as the finance desk sees it: entries and accounts."""

from django.contrib import admin
from django.db.models import Q, QuerySet, Sum
from django.http import HttpRequest
from django.utils.safestring import SafeString

from foundation import cells
from foundation.desk import ChoiceFilter, ReadOnlyAdmin, choice_filter
from foundation.sections import Facts, Page, Table
from payments.admin.shared import order_link
from payments.models import Account, JournalEntry, Payment, Posting, Refund

_POSTINGS_SHOWN = 100  # the newest lines of an account; the whole account is the ledger's business, not a page's


@admin.register(JournalEntry)
class JournalEntryAdmin(ReadOnlyAdmin[JournalEntry]):
    list_display = ("kind_cell", "order", "subject_cell", "lines", "amount", "by_cell", "posted")
    search_help_text = "Number of an order, payment or refund"

    def get_queryset(self, request: HttpRequest) -> QuerySet[JournalEntry]:
        return super().get_queryset(request).prefetch_related("postings__account")

    def find(self, text: str) -> Q:
        return Q(reference=text) if text.startswith("ord_") else Q(subject=text)

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
    def lines(self, entry: JournalEntry) -> SafeString:
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
                )
            ],
            side=[
                Facts(
                    "Entry",
                    [
                        ("Order", order_link(request, row.reference) if row.reference else cells.NOTHING),
                        ("Of", self._subject(request, row.subject)),
                        ("Memo", row.memo or cells.NOTHING),
                        ("By", row.by),
                        ("Posted", cells.moment(row.created_at)),
                        ("Cause", cells.code(row.key)),
                    ],
                )
            ],
        )

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
    )

    @admin.display(description="Account")
    def name(self, account: Account) -> str:
        return str(account)

    @admin.display(description="Currency")
    def currency_cell(self, account: Account) -> str:
        return account.currency.upper()

    @admin.display(description="Balance")
    def balance(self, account: Account) -> SafeString:
        # Others keep no running balance: adding one up belongs to the account's own page.
        kept = account.balance_minor if account.kind == Account.Kind.CUSTOMER else None
        return cells.money(kept, account.currency)

    def page(self, request: HttpRequest, row: Account) -> Page:
        lines = Posting.objects.filter(account=row)
        total = lines.aggregate(total=Sum("amount_minor"))["total"] or 0
        side = "Debit balance" if total >= 0 else "Credit balance"
        newest = lines.select_related("entry").order_by("-pk")[:_POSTINGS_SHOWN]
        return Page(
            title=str(row),
            lead=[cells.badge(row.currency.upper())],
            sub=cells.code(str(row.pk)),
            figure=(side, cells.money(abs(total), row.currency)),
            main=[
                Table(
                    f"The newest {_POSTINGS_SHOWN} lines",
                    ["Entry", "Order", "By", "Posted", cells.right("Debit"), cells.right("Credit")],
                    [
                        [
                            cells.link(
                                request, "payments.journalentry", line.entry_id, line.entry.kind.replace("_", " ")
                            ),
                            cells.short(line.entry.reference),
                            line.entry.by,
                            cells.brief(line.entry.created_at),
                            cells.money(line.amount_minor, row.currency) if line.amount_minor > 0 else "",
                            cells.money(-line.amount_minor, row.currency) if line.amount_minor < 0 else "",
                        ]
                        for line in newest
                    ],
                    empty="Nothing has been posted here.",
                )
            ],
        )
