"""Refunds as the finance desk sees them. Read-only; what may be done are acts."""

from typing import Any

from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest
from django.utils.safestring import SafeString

from foundation import cells
from foundation.desk import Act, ReadOnlyAdmin, by_number, choice_filter
from foundation.sections import Entry, Facts, Page, Timeline
from payments import services
from payments.admin.shared import journal_table, order_link, webhooks_table
from payments.models import JournalEntry, Payment, Refund
from payments.states import RefundStatus

_REFUND_STATES = [value for name, value in vars(RefundStatus).items() if name.isupper()]


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
