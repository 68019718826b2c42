"""Store credit on the finance desk: what a customer has, and who gave it."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db import transaction
from django.db.models import Q
from django.http import HttpRequest
from django.utils.safestring import SafeString

from catalog import selectors as catalog
from foundation import cells, numbers
from foundation.desk import Act, NoteForm, ReadOnlyAdmin, choice_filter
from foundation.ids import uuid7
from foundation.money import POINTS
from foundation.sections import Facts, Page, Table
from payments import ledger, selectors, services
from payments.admin.shared import journal_table
from payments.models import CUSTOMER_KINDS, Account, CreditGrant, JournalEntry
from payments.states import GrantStatus


class GrantForm(NoteForm):
    """`grant` is made with the page: the same press of the button, however often it is sent, gives once."""

    grant = forms.UUIDField(widget=forms.HiddenInput, initial=uuid7)
    amount = forms.CharField(
        label="Amount",
        help_text=numbers.explained("As {}, in the account's currency."),
        widget=forms.TextInput(attrs={"inputmode": "decimal"}),
    )
    field_order = ("grant", "amount", "note")


def grant(account: Account, data: dict[str, Any], by: str) -> str:
    assert account.merchant_id
    with transaction.atomic():
        given = services.grant_store_credit(
            grant_id=data["grant"],
            merchant_id=account.merchant_id,
            customer=account.customer,
            currency=account.currency,
            amount_minor=numbers.read(data["amount"], account.currency),
            reason=data["note"],
            by=by,
        )
    return (
        "The customer can spend it from now on." if given else "It is above the limit: a second person has to approve."
    )


GRANT: Act[Account] = Act(
    name="grant",
    label="Grant store credit",
    says="Gives the customer credit to spend at this merchant, at the merchant's expense.",
    permission="payments.grant_store_credit",
    run=grant,
    form=GrantForm,
    icon="redeem",
)


def may_be_granted(account: Account) -> bool:
    """On any account of a customer but that of the points."""
    return account.kind in CUSTOMER_KINDS and account.currency != POINTS


def customer_sections(request: HttpRequest, account: Account) -> list[Table]:
    """All that this account's customer has with this merchant; nothing beside an account of the books."""
    if account.merchant_id is None or account.kind not in CUSTOMER_KINDS:
        return []
    found = selectors.accounts_of(merchant_id=account.merchant_id, customer=account.customer)
    return [
        Table(
            "This customer's accounts",
            ["Account", cells.right("Balance")],
            [
                [
                    cells.link(
                        request, "payments.account", one.pk, f"{one.get_kind_display()}, {one.currency.upper()}"
                    ),
                    cells.money(one.balance_minor, one.currency),
                ]
                for one in found
            ],
            empty="Nothing has been posted for this customer.",
        )
    ]


def approve(row: CreditGrant, data: dict[str, Any], by: str) -> str:
    with transaction.atomic():
        services.approve_grant(grant_id=row.pk, by=by, why=data["note"])
    return "The customer can spend it from now on."


def refuse(row: CreditGrant, data: dict[str, Any], by: str) -> str:
    with transaction.atomic():
        services.refuse_grant(grant_id=row.pk, by=by, why=data["note"])
    return "Refused: nothing was given."


@admin.register(CreditGrant)
class CreditGrantAdmin(ReadOnlyAdmin[CreditGrant]):
    list_display = ("customer_cell", "status_cell", "amount", "reason_cell", "asked_by", "decided", "created")
    list_filter = (
        choice_filter("status", [value for name, value in vars(GrantStatus).items() if name.isupper()]),
        choice_filter("currency", ["usd", "eur", "gbp", "jpy"]),
    )
    saved_views = (("All", ""), ("Waiting for a second person", "status=awaiting_approval"))
    search_help_text = "A customer's id"
    acts = (
        Act(
            name="approve",
            label="Approve",
            says="Gives the credit that another person asked for.",
            permission="payments.approve_store_credit",
            run=approve,
            icon="check",
        ),
        Act(
            name="refuse",
            label="Refuse",
            says="Gives nothing, and keeps the reason.",
            permission="payments.approve_store_credit",
            run=refuse,
            icon="close",
            danger=True,
        ),
    )

    def find(self, text: str) -> Q:
        return Q(customer=text)

    def offered(self, row: CreditGrant) -> list[str]:
        return ["approve", "refuse"] if row.status == GrantStatus.AWAITING_APPROVAL else []

    @admin.display(description="Customer")
    def customer_cell(self, row: CreditGrant) -> str:
        return row.customer

    @admin.display(description="Status")
    def status_cell(self, row: CreditGrant) -> SafeString:
        return cells.state(row.status)

    @admin.display(description="Amount")
    def amount(self, row: CreditGrant) -> SafeString:
        return cells.money(row.amount_minor, row.currency)

    @admin.display(description="Reason")
    def reason_cell(self, row: CreditGrant) -> str:
        return row.reason[:60]

    @admin.display(description="Asked by")
    def asked_by(self, row: CreditGrant) -> str:
        return row.requested_by

    @admin.display(description="Decided by")
    def decided(self, row: CreditGrant) -> str:
        return row.decided_by

    @admin.display(description="Created")
    def created(self, row: CreditGrant) -> SafeString:
        return cells.moment(row.created_at)

    def page(self, request: HttpRequest, row: CreditGrant) -> Page:
        account = ledger.store_credit(row.merchant_id, row.customer, row.currency)
        return Page(
            title=f"Store credit for {row.customer}",
            lead=[cells.state(row.status)],
            sub=catalog.get_merchant(row.merchant_id).name,
            figure=("Amount", cells.money(row.amount_minor, row.currency)),
            main=[journal_table(request, JournalEntry.objects.filter(subject=str(row.pk)))],
            side=[
                Facts(
                    "Grant",
                    [
                        ("Customer", cells.link(request, "payments.account", account.id, row.customer)),
                        ("Reason", row.reason),
                        ("Asked by", row.requested_by),
                        ("Second person", row.decided_by or ("waiting" if row.needs_approval else "not needed")),
                        ("Their reason", row.decided_why or cells.NOTHING),
                        ("Created", cells.moment(row.created_at)),
                        ("Decided", cells.moment(row.decided_at)),
                    ],
                )
            ],
        )
