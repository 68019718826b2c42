"""The books as the finance desk sees them: payments, refunds, the ledger, webhooks. Read-only; what may be done are acts."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db import transaction
from django.db.models import Q, QuerySet, Sum
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from foundation import cells
from foundation.database import database_now
from foundation.desk import Act, ChoiceFilter, NoteForm, ReadOnlyAdmin, by_number, choice_filter
from foundation.ids import parse_public_id
from foundation.money import parse_major
from foundation.sections import Entry, Facts, Page, Section, Table, Timeline
from payments import selectors, services
from payments.models import Account, InboxEvent, JournalEntry, Payment, Posting, Refund
from payments.states import PaymentStatus, RefundStatus

_PAYMENT_STATES = [value for name, value in vars(PaymentStatus).items() if name.isupper()]
_REFUND_STATES = [value for name, value in vars(RefundStatus).items() if name.isupper()]
_POSTINGS_SHOWN = 100  # the newest lines of an account; the whole account is the ledger's business, not a page's


def order_link(request: HttpRequest, number: str) -> SafeString:
    """The page of the order that a reference names, by the address's name: payments knows nothing of orders."""
    if not number.startswith("ord_") or not request.user.has_perm("orders.view_order"):
        return cells.code(number)
    url = reverse("admin:orders_order_change", args=[parse_public_id("ord", number)])
    return format_html('<a class="ec-link" href="{}">{}</a>', url, cells.code(number))


# --- Payments ---------------------------------------------------------------------------------------


class RefundForm(NoteForm):
    amount = forms.CharField(
        label="Amount",
        required=False,
        help_text="As 12.34. Empty: all that is not refunded yet.",
        widget=forms.TextInput(attrs={"inputmode": "decimal", "placeholder": "all"}),
    )
    field_order = ("amount", "note")


def refund(payment: Payment, data: dict[str, Any], by: str) -> str:
    amount = data["amount"].strip()
    with transaction.atomic():
        number = services.request_refund(
            payment=payment.number,
            amount_minor=parse_major(amount, payment.currency) if amount else None,
            reason=data["note"],
            requested_by=by,
            policy=None,  # staff with a reason pass the merchant's terms for customers
        )
    return f"Refund {number} is on its way to the provider."


def recheck_payment(payment: Payment, data: dict[str, Any], by: str) -> str:
    services.take_provider_status(payment.number, by=by)
    return "Read at the provider: what it says now stands in our books."


@admin.register(Payment)
class PaymentAdmin(ReadOnlyAdmin[Payment]):
    list_display = ("number_cell", "order", "customer_cell", "status_cell", "amount", "refunded", "provider", "created")
    list_filter = (choice_filter("status", _PAYMENT_STATES), choice_filter("currency", ["usd", "eur", "gbp", "jpy"]))
    saved_views = (
        ("All", ""),
        ("Succeeded", "status=succeeded"),
        ("Failed", "status=failed"),
        ("Unknown", "status=unknown"),
        ("Waiting for the customer", "status=pending"),
    )
    search_help_text = "Number of a payment or order, or pi_…, ch_…"
    acts = (
        Act(
            name="recheck",
            label="Read at the provider",
            says="Asks the provider how this payment stands, and takes over what it says.",
            permission="payments.recheck_payment",
            run=recheck_payment,
            icon="sync",
        ),
        Act(
            name="refund",
            label="Refund",
            says="Sends money back to the customer, all or part of it, past the merchant's refund window.",
            permission="payments.refund_payment",
            run=refund,
            form=RefundForm,
            icon="undo",
            danger=True,
        ),
    )

    def find(self, text: str) -> Q:
        if text.startswith(("pi_", "ch_", "py_")):
            return Q(provider_reference=text) | Q(charge_reference=text)
        if text.startswith("ord_"):
            return Q(reference=text)
        return by_number(Payment.id_of, text)

    def offered(self, row: Payment) -> list[str]:
        can_refund = row.status == PaymentStatus.SUCCEEDED and row.refunds_committed_minor < row.captured_minor
        return [*(["recheck"] if row.provider_reference else []), *(["refund"] if can_refund else [])]

    @admin.display(description="Payment")
    def number_cell(self, payment: Payment) -> SafeString:
        return cells.code(payment.number)

    @admin.display(description="Order")
    def order(self, payment: Payment) -> SafeString:
        return cells.short(payment.reference)

    @admin.display(description="Customer")
    def customer_cell(self, payment: Payment) -> str:
        return payment.customer

    @admin.display(description="Status")
    def status_cell(self, payment: Payment) -> SafeString:
        return cells.beside(cells.state(payment.status), *self._marks(payment))

    @admin.display(description="Amount")
    def amount(self, payment: Payment) -> SafeString:
        return cells.money(payment.amount_minor, payment.currency)

    @admin.display(description="Refunded")
    def refunded(self, payment: Payment) -> SafeString:
        return cells.money(payment.refunded_minor or None, payment.currency)

    @admin.display(description="At the provider")
    def provider(self, payment: Payment) -> SafeString:
        return cells.short(payment.provider_reference or "")

    @admin.display(description="Created")
    def created(self, payment: Payment) -> SafeString:
        return cells.moment(payment.created_at)

    def page(self, request: HttpRequest, row: Payment) -> Page:
        history = [
            Entry(
                at=one.at,
                title=cells.state(one.to_state),
                detail=cells.who(one.by, one.why),
                icon="flag",
                tone=cells.tone_of(one.to_state),
            )
            for one in row.history.order_by("at", "pk")
        ]
        side: list[Section] = [
            Facts("Payment", self._facts(request, row)),
            Timeline("Status", history, empty="Its status has not changed yet."),
        ]
        return Page(
            title=cells.code(row.number),
            lead=[cells.state(row.status), *self._marks(row)],
            sub=cells.beside("for order", order_link(request, row.reference)),
            figure=("Amount", cells.money(row.amount_minor, row.currency)),
            main=[
                *self._failure(row),
                refunds_table(request, row.refunds.order_by("pk")),
                journal_table(request, JournalEntry.objects.filter(subject=row.number)),
                webhooks_table(request, [row.provider_reference] if row.provider_reference else []),
            ],
            side=side,
        )

    def _marks(self, payment: Payment) -> list[SafeString]:
        marks = []
        if payment.status == PaymentStatus.SUCCEEDED and not payment.settling:
            marks.append(cells.badge("does not settle", "warn", title="A second success: it is given back by itself."))
        if payment.fraud_marked_at:
            marks.append(cells.badge("fraud", "bad"))
        return marks

    def _failure(self, payment: Payment) -> list[Section]:
        if not payment.failure_code:
            return []
        return [
            Facts(
                "Last failure",
                [
                    ("Code", cells.code(payment.failure_code)),
                    ("Decline code", cells.code(payment.failure_decline_code)),
                    ("The provider says", payment.failure_message or cells.NOTHING),
                ],
            )
        ]

    def _facts(self, request: HttpRequest, payment: Payment) -> list[tuple[str, str | SafeString]]:
        currency = payment.currency
        return [
            ("Order", order_link(request, payment.reference)),
            ("Customer", payment.customer),
            ("Method", payment.method),
            ("Asked for", cells.money(payment.amount_minor, currency)),
            ("Captured", cells.money(payment.captured_minor, currency)),
            ("Refunded", cells.money(payment.refunded_minor, currency)),
            ("Refunds under way", cells.money(payment.refunds_committed_minor - payment.refunded_minor, currency)),
            *(
                [("Corrected by", cells.difference(payment.corrected_minor, currency))]
                if payment.corrected_minor
                else []
            ),
            ("Intent", cells.code(payment.provider_reference)),
            ("Charge", cells.code(payment.charge_reference)),
            ("Created", cells.moment(payment.created_at)),
            ("First sent", cells.moment(payment.first_sent_at)),
            ("Captured at", cells.moment(payment.captured_at)),
            ("Next look at the provider", cells.moment(payment.next_check_at)),
        ]


def refunds_table(request: HttpRequest, refunds: QuerySet[Refund]) -> Table:
    return Table(
        "Refunds",
        ["Refund", "Status", "Reason", "Asked by", "At the provider", "Created", cells.right("Amount")],
        [
            [
                cells.link(request, "payments.refund", one.pk, cells.short(one.number)),
                cells.state(one.status),
                one.reason,
                one.requested_by,
                cells.short(one.provider_reference or ""),
                cells.brief(one.created_at),
                cells.money(one.amount_minor, one.currency),
            ]
            for one in refunds
        ],
        empty="Nothing has been refunded.",
    )


def journal_table(request: HttpRequest, entries: QuerySet[JournalEntry]) -> Table:
    rows = entries.order_by("pk").prefetch_related("postings__account")
    return Table(
        "Ledger",
        ["Entry", "Account", "Posted", "By", cells.right("Debit"), cells.right("Credit")],
        [
            _posting_row(request, entry, posting, first=position == 0)
            for entry in rows
            for position, posting in enumerate(entry.postings.all())
        ],
        empty="Nothing has been posted.",
    )


def _posting_row(request: HttpRequest, entry: JournalEntry, posting: Posting, *, first: bool) -> list[str | SafeString]:
    debit, credit = max(posting.amount_minor, 0), max(-posting.amount_minor, 0)
    return [
        cells.link(request, "payments.journalentry", entry.pk, entry.kind.replace("_", " ")) if first else "",
        cells.link(request, "payments.account", posting.account_id, str(posting.account)),
        cells.brief(entry.created_at) if first else "",
        entry.by if first else "",
        cells.money(debit, entry.currency) if debit else "",
        cells.money(credit, entry.currency) if credit else "",
    ]


def webhooks_table(request: HttpRequest, references: list[str]) -> Table:
    events = selectors.inbox_of(references) if references else []
    return Table(
        "Webhooks",
        ["Event", "Type", "Object", "Made at the provider", "Received"],
        [
            [
                cells.link(request, "payments.inboxevent", event.pk, cells.short(event.pk)),
                event.type,
                cells.short(event.object_id),
                cells.brief(event.provider_created_at),
                cells.brief(event.received_at),
            ]
            for event in events
        ],
        empty="The provider has told us nothing about this yet.",
    )


# --- Refunds ----------------------------------------------------------------------------------------


def recheck_refund(refund: Refund, data: dict[str, Any], by: str) -> str:
    services.take_provider_status(refund.number, by=by)
    return "Read at the provider: what it says now stands in our books."


@admin.register(Refund)
class RefundAdmin(ReadOnlyAdmin[Refund]):
    list_display = (
        "number_cell",
        "order",
        "payment_cell",
        "status_cell",
        "amount",
        "reason_cell",
        "asked_by",
        "created",
    )
    list_filter = (choice_filter("status", _REFUND_STATES), choice_filter("currency", ["usd", "eur", "gbp", "jpy"]))
    list_select_related = ("payment",)
    saved_views = (
        ("All", ""),
        ("Under way", "status=processing"),
        ("Succeeded", "status=succeeded"),
        ("Failed", "status=failed"),
    )
    search_help_text = "Number of a refund, payment or order, or re_…"
    acts = (
        Act(
            name="recheck",
            label="Read at the provider",
            says="Asks the provider how this refund stands, and takes over what it says.",
            permission="payments.recheck_payment",
            run=recheck_refund,
            icon="sync",
        ),
    )

    def find(self, text: str) -> Q:
        if text.startswith(("re_", "pyr_")):
            return Q(provider_reference=text)
        if text.startswith("ord_"):
            return Q(payment__reference=text)
        if text.startswith("pay_"):
            return Q(payment__in=Payment.objects.filter(by_number(Payment.id_of, text)))
        return by_number(Refund.id_of, text)

    def offered(self, row: Refund) -> list[str]:
        return ["recheck"] if row.provider_reference else []

    @admin.display(description="Refund")
    def number_cell(self, refund: Refund) -> SafeString:
        return cells.code(refund.number)

    @admin.display(description="Order")
    def order(self, refund: Refund) -> SafeString:
        return cells.short(refund.payment.reference)

    @admin.display(description="Payment")
    def payment_cell(self, refund: Refund) -> SafeString:
        return cells.short(refund.payment.number)

    @admin.display(description="Status")
    def status_cell(self, refund: Refund) -> SafeString:
        mark = cells.badge("made elsewhere", "warn") if refund.made_elsewhere else ""
        return cells.beside(cells.state(refund.status), mark)

    @admin.display(description="Amount")
    def amount(self, refund: Refund) -> SafeString:
        return cells.money(refund.amount_minor, refund.currency)

    @admin.display(description="Reason")
    def reason_cell(self, refund: Refund) -> str:
        return refund.reason[:60]

    @admin.display(description="Asked by")
    def asked_by(self, refund: Refund) -> str:
        return refund.requested_by

    @admin.display(description="Created")
    def created(self, refund: Refund) -> SafeString:
        return cells.moment(refund.created_at)

    def page(self, request: HttpRequest, row: Refund) -> Page:
        payment = row.payment
        history = [
            Entry(
                one.at,
                cells.state(one.to_state),
                cells.who(one.by, one.why),
                "flag",
                cells.tone_of(one.to_state),
            )
            for one in row.history.order_by("at", "pk")
        ]
        return Page(
            title=cells.code(row.number),
            lead=[cells.state(row.status), cells.badge("made elsewhere", "warn") if row.made_elsewhere else ""],
            sub=cells.beside(
                "of payment", cells.link(request, "payments.payment", payment.pk, cells.code(payment.number))
            ),
            figure=("Amount", cells.money(row.amount_minor, row.currency)),
            main=[
                journal_table(request, JournalEntry.objects.filter(subject=row.number)),
                webhooks_table(request, [row.provider_reference] if row.provider_reference else []),
            ],
            side=[
                Facts(
                    "Refund",
                    [
                        ("Order", order_link(request, payment.reference)),
                        ("Payment", cells.link(request, "payments.payment", payment.pk, cells.short(payment.number))),
                        ("Reason", row.reason),
                        ("Asked by", row.requested_by),
                        ("At the provider", cells.code(row.provider_reference)),
                        ("Failure", row.failure_message or row.failure_code or cells.NOTHING),
                        ("Created", cells.moment(row.created_at)),
                        ("Sent", cells.moment(row.first_sent_at)),
                        ("Completed", cells.moment(row.completed_at)),
                    ],
                ),
                Timeline("Status", history, empty="Its status has not changed yet."),
            ],
        )


# --- The ledger -------------------------------------------------------------------------------------


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


# --- Webhooks ---------------------------------------------------------------------------------------


@admin.register(InboxEvent)
class InboxEventAdmin(ReadOnlyAdmin[InboxEvent]):
    list_display = ("event", "type_cell", "object_cell", "made", "received")
    ordering = ("-received_at",)
    search_help_text = "evt_…, pi_…, ch_… or re_…"

    def find(self, text: str) -> Q:
        if text.startswith("evt_"):
            return Q(pk=text)
        return Q(object_id=text)

    @admin.display(description="Event")
    def event(self, row: InboxEvent) -> SafeString:
        return cells.code(row.pk)

    @admin.display(description="Type")
    def type_cell(self, row: InboxEvent) -> str:
        return row.type

    @admin.display(description="Object")
    def object_cell(self, row: InboxEvent) -> SafeString:
        return cells.code(row.object_id)

    @admin.display(description="Made at the provider")
    def made(self, row: InboxEvent) -> SafeString:
        return cells.moment(row.provider_created_at)

    @admin.display(description="Received")
    def received(self, row: InboxEvent) -> SafeString:
        return cells.moment(row.received_at)

    def page(self, request: HttpRequest, row: InboxEvent) -> Page:
        now = database_now()
        payment = selectors.find_by_provider_reference(row.intent_id or row.object_id)
        about = (
            cells.link(request, "payments.payment", payment.id, cells.code(payment.number))
            if payment
            else cells.NOTHING
        )
        return Page(
            title=row.type,
            lead=[cells.badge("live" if row.livemode else "test mode", "good" if row.livemode else "warn")],
            sub=cells.code(row.pk),
            main=[
                Facts(
                    "Webhook",
                    [
                        ("Object", cells.code(row.object_id)),
                        ("Intent", cells.code(row.intent_id)),
                        ("Our payment", about),
                        ("Made at the provider", cells.moment(row.provider_created_at)),
                        ("Received", cells.moment(row.received_at)),
                        ("Age", cells.ago(row.received_at, now)),
                    ],
                )
            ],
        )
