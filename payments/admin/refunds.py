"""Refunds as the finance desk sees them. Read-only; what may be done are acts."""

from typing import Any

from django.contrib import admin
from django.db import transaction
from django.db.models import Q
from django.http import HttpRequest
from django.utils.safestring import SafeString

from foundation import cells
from foundation.desk import Act, ReadOnlyAdmin, by_number, choice_filter
from foundation.sections import Entry, Facts, Page, Timeline
from payments import services
from payments.admin.shared import (
    NeedsAPerson,
    end_unanswered,
    journal_table,
    money_link,
    offered_to_decide,
    order_link,
    person_marks,
    person_section,
    settled_by_hand,
    tries_section,
    webhooks_table,
)
from payments.models import JournalEntry, Payment, Refund
from payments.states import REFUND_ENDED_UNPAID, RefundStatus

_REFUND_STATES = [value for name, value in vars(RefundStatus).items() if name.isupper()]


def recheck_refund(refund: Refund, data: dict[str, Any], by: str) -> str:
    services.take_provider_status(refund.number, by=by)
    return "Read at the provider: what it says now stands in our books."


def approve_refund(refund: Refund, data: dict[str, Any], by: str) -> str:
    with transaction.atomic():
        services.approve_refund(number=refund.number, by=by, why=data["note"])
    return f"Approved: refund {refund.number} is on its way."


def reject_refund(refund: Refund, data: dict[str, Any], by: str) -> str:
    with transaction.atomic():
        services.reject_refund(number=refund.number, by=by, why=data["note"])
    return "Rejected: nothing was sent, and what was held is free again."


def refund_again(refund: Refund, data: dict[str, Any], by: str) -> str:
    with transaction.atomic():
        number = services.refund_again(number=refund.number, by=by, why=data["note"])
    return f"Refund {number} was asked for in its place."


def pay_outside(refund: Refund, data: dict[str, Any], by: str) -> str:
    with transaction.atomic():
        number = services.refund_again(number=refund.number, by=by, why=data["note"], paid_outside=True)
    return f"Refund {number} stands in its place: paid by our own bank."


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
    list_filter = (
        NeedsAPerson,
        choice_filter("status", _REFUND_STATES),
        choice_filter("currency", ["usd", "eur", "gbp", "jpy"]),
    )
    list_select_related = ("payment",)
    saved_views = (
        ("All", ""),
        ("Awaiting approval", "status=awaiting_approval"),
        ("Under way", "status=processing"),
        ("At the bank", "status=pending"),
        ("Succeeded", "status=succeeded"),
        ("Failed", "status=failed"),
        ("Needs a person", "needs_a_person=yes"),
    )
    search_help_text = "Number of a refund, payment or order, or re_…"
    acts = (
        Act(
            name="approve",
            label="Approve",
            says="Sends it to the provider. Not for whoever asked for it: above the merchant's limit it takes two.",
            permission="payments.approve_refund",
            run=approve_refund,
            icon="check",
        ),
        Act(
            name="reject",
            label="Reject",
            says="Sends nothing, and frees what is held. A cancellation that waits for it is withdrawn.",
            permission="payments.approve_refund",
            run=reject_refund,
            icon="block",
            danger=True,
        ),
        Act(
            name="again",
            label="Refund again",
            says="Asks for a new refund of what this one failed to give back, to the same card.",
            permission="payments.refund_payment",
            run=refund_again,
            icon="replay",
        ),
        Act(
            name="outside",
            label="Paid another way",
            says="Records that our own bank has paid what is owed: by transfer, or in cash. Nothing is sent.",
            permission="payments.refund_payment",
            run=pay_outside,
            icon="account_balance",
        ),
        Act(
            name="recheck",
            label="Read at the provider",
            says="Asks the provider how this refund stands, and takes over what it says.",
            permission="payments.recheck_payment",
            run=recheck_refund,
            icon="sync",
        ),
        end_unanswered,
        settled_by_hand,
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
        acts = ["approve", "reject"] if row.status == RefundStatus.AWAITING_APPROVAL else []
        if row.status == RefundStatus.FAILED and not _made_again(row):
            acts += ["again", *(["outside"] if row.payment.refunds_owed_minor else [])]
        return [*acts, *(["recheck"] if row.first_sent_at else []), *offered_to_decide(row)]

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
        return cells.beside(cells.state(refund.status), *_marks(refund), *person_marks(refund))

    @admin.display(description="Amount")
    def amount(self, refund: Refund) -> SafeString:
        return cells.money(refund.amount_minor + refund.credit_minor, refund.currency)

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
            lead=[cells.state(row.status), *_marks(row), *person_marks(row)],
            sub=cells.beside(
                "of payment", cells.link(request, "payments.payment", payment.pk, cells.code(payment.number))
            ),
            figure=("Amount", cells.money(row.amount_minor + row.credit_minor, row.currency)),
            main=[
                *person_section(row),
                *tries_section(row),
                journal_table(request, JournalEntry.objects.filter(subject=row.number)),
                webhooks_table(request, [row.provider_reference] if row.provider_reference else []),
            ],
            side=[
                Facts(
                    "Refund",
                    [
                        ("Order", order_link(request, payment.reference)),
                        ("Payment", cells.link(request, "payments.payment", payment.pk, cells.short(payment.number))),
                        ("Follow the money", money_link(request, row.number)),
                        ("By the provider", cells.money(row.amount_minor, row.currency)),
                        ("As store credit", cells.money(row.credit_minor or None, row.currency)),
                        ("Reason", row.reason),
                        ("Asked by", row.requested_by),
                        *_approval(row),
                        *_links(request, row),
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


def _made_again(refund: Refund) -> bool:
    return refund.again.exclude(status__in=REFUND_ENDED_UNPAID).exists()


def _marks(refund: Refund) -> list[SafeString]:
    marks = []
    if refund.made_elsewhere:
        marks.append(cells.badge("made elsewhere", "warn"))
    if refund.paid_outside:
        marks.append(cells.badge("paid outside", "info"))
    if refund.automatic:
        marks.append(cells.badge("by itself", title="No order explains the money: nobody had to decide."))
    if refund.failed_late_at:
        marks.append(cells.badge("came back", "bad", title="It had succeeded, and the bank sent it back."))
    return marks


def _approval(refund: Refund) -> list[tuple[str, str | SafeString]]:
    if refund.approval_above_minor is None:
        return []
    limit = cells.money(refund.approval_above_minor, refund.currency)
    if not refund.approved_by:
        return [("A second person approves above", limit)]
    return [
        ("A second person approves above", limit),
        ("Approved by", cells.beside(refund.approved_by, cells.moment(refund.approved_at))),
    ]


def _links(request: HttpRequest, refund: Refund) -> list[tuple[str, str | SafeString]]:
    """The refund that it stands in place of, and those that stand in place of it."""
    before = [("In place of", refund.again_of)] if refund.again_of else []
    after = [("Made again as", one) for one in refund.again.order_by("pk")]
    return [
        (label, cells.link(request, "payments.refund", one.pk, cells.short(one.number)))
        for label, one in before + after
    ]
