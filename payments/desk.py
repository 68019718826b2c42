"""What the finance desk shows of payments on other objects' pages, too: their disputes, and how money is given back."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django import forms
from django.db import transaction
from django.http import HttpRequest

from foundation import cells, numbers
from foundation.desk import NoteForm
from foundation.ids import uuid7
from foundation.sections import Table
from payments import selectors, services
from payments.documents import refund_told
from payments.types import DisputeView


class RefundForm(NoteForm):
    """`press` is made with the page: the same press of the button, however often it is sent, refunds once."""

    press = forms.UUIDField(widget=forms.HiddenInput, initial=uuid7)
    amount = forms.CharField(
        label="Amount",
        required=False,
        help_text=numbers.explained("As {}. Empty: all that is not refunded yet."),
        widget=forms.TextInput(attrs={"inputmode": "decimal", "placeholder": "all"}),
    )
    as_credit = forms.BooleanField(
        label="As store credit", required=False, help_text="Instead of to the card: the customer can spend it here."
    )
    field_order = ("press", "amount", "as_credit", "note")


def refund(payment: str, data: dict[str, Any], *, currency: str, merchant_id: UUID, by: str) -> str:
    """Ask for what a RefundForm says, and tell what became of it. Raises what `request_refund` does."""
    amount = data["amount"].strip()
    with transaction.atomic():
        number = services.request_refund(
            payment=payment,
            amount_minor=numbers.read(amount, currency) if amount else None,
            reason=data["note"],
            requested_by=by,
            policy=None,  # staff with a reason pass the merchant's terms for customers
            merchant_id=merchant_id,
            as_credit=data["as_credit"],
            refund_id=data["press"],
        )
    return refund_told(selectors.get_refund(number))


def disputes_table(request: HttpRequest, disputes: Sequence[DisputeView]) -> Table:
    return Table(
        "Disputes",
        ["Dispute", "Status", "Reason", "Answer until", "Opened", cells.right("Withdrawn"), cells.right("Disputed")],
        [
            [
                cells.link(request, "payments.dispute", one.id, cells.short(one.number)),
                cells.state(one.status),
                one.reason.replace("_", " "),
                cells.brief(one.evidence_due_at),
                cells.brief(one.opened_at),
                cells.money(one.withdrawn_minor or None, one.currency),
                cells.money(one.amount_minor, one.currency),
            ]
            for one in disputes
        ],
        empty="Nobody disputes what was paid.",
    )
