"""Disputes as the finance desk sees them: what has to be answered first, and by when. The answer is given at the provider."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from foundation import cells
from foundation.database import database_now
from foundation.desk import Act, ChoiceFilter, ReadOnlyAdmin, by_number, choice_filter
from foundation.sections import Entry, Facts, Page, Timeline
from payments import services
from payments.admin.shared import journal_table, money_link, order_link, refunds_table, webhooks_table
from payments.models import Dispute, JournalEntry, Payment
from payments.states import DISPUTE_NEEDS_RESPONSE, DISPUTE_OPEN, DisputeStatus

_STATES = [value for name, value in vars(DisputeStatus).items() if name.isupper()]


class AnswerFilter(ChoiceFilter):
    """What waits for an answer of ours, and how soon."""

    title = "answer"
    parameter_name = "answer"
    options = ("needed", "due_in_48h", "overdue")

    def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        waiting = rows.filter(status__in=DISPUTE_NEEDS_RESPONSE)
        now = database_now()
        if value == "due_in_48h":
            return waiting.filter(
                evidence_due_at__gte=now, evidence_due_at__lte=now + timedelta(seconds=settings.DISPUTE_DUE_SOON_S)
            )
        return waiting.filter(evidence_due_at__lt=now) if value == "overdue" else waiting


def recheck(dispute: Dispute, data: dict[str, Any], by: str) -> str:
    services.take_provider_status(dispute.number, by=by)
    return "Read at the provider: what it says now stands in our books."


@admin.register(Dispute)
class DisputeAdmin(ReadOnlyAdmin[Dispute]):
    list_display = ("number_cell", "order", "status_cell", "reason_cell", "due", "withdrawn", "amount", "opened")
    list_filter = (
        choice_filter("status", _STATES),
        AnswerFilter,
        choice_filter("currency", ["usd", "eur", "gbp", "jpy"]),
    )
    list_select_related = ("payment",)
    saved_views = (
        ("All", ""),
        ("Needs a response", "answer=needed"),
        ("Due within 48 h", "answer=due_in_48h"),
        ("Lost", "status=lost"),
        ("Won", "status=won"),
    )
    search_help_text = "Number of a dispute, payment or order, or dp_…"
    acts = (
        Act(
            name="recheck",
            label="Read at the provider",
            says="Asks the provider how this dispute stands, and takes over what it says.",
            permission="payments.recheck_payment",
            run=recheck,
            icon="sync",
        ),
    )

    def find(self, text: str) -> Q:
        if text.startswith(("dp_", "du_")):
            return Q(provider_reference=text)
        if text.startswith("ord_"):
            return Q(payment__in=Payment.objects.filter(reference=text))
        if text.startswith("pay_"):
            return Q(payment__in=Payment.objects.filter(by_number(Payment.id_of, text)))
        return by_number(Dispute.id_of, text)

    @admin.display(description="Dispute")
    def number_cell(self, dispute: Dispute) -> SafeString:
        return cells.code(dispute.number)

    @admin.display(description="Order")
    def order(self, dispute: Dispute) -> SafeString:
        return cells.short(dispute.payment.reference)

    @admin.display(description="Status")
    def status_cell(self, dispute: Dispute) -> SafeString:
        return cells.state(dispute.status)

    @admin.display(description="Reason")
    def reason_cell(self, dispute: Dispute) -> str:
        return dispute.reason.replace("_", " ")

    @admin.display(description="Answer until")
    def due(self, dispute: Dispute) -> SafeString:
        return cells.moment(dispute.evidence_due_at) if dispute.status in DISPUTE_NEEDS_RESPONSE else cells.NOTHING

    @admin.display(description="Withdrawn")
    def withdrawn(self, dispute: Dispute) -> SafeString:
        return cells.money(dispute.withdrawn_minor or None, dispute.currency)

    @admin.display(description="Disputed")
    def amount(self, dispute: Dispute) -> SafeString:
        return cells.money(dispute.amount_minor, dispute.currency)

    @admin.display(description="Opened")
    def opened(self, dispute: Dispute) -> SafeString:
        return cells.moment(dispute.opened_at)

    def page(self, request: HttpRequest, row: Dispute) -> Page:
        payment = row.payment
        history = [
            Entry(one.at, cells.state(one.to_state), cells.who(one.by, one.why), "flag", cells.tone_of(one.to_state))
            for one in row.history.order_by("at", "pk")
        ]
        return Page(
            title=cells.code(row.number),
            lead=[cells.state(row.status)],
            sub=cells.beside(
                "of payment", cells.link(request, "payments.payment", payment.pk, cells.code(payment.number))
            ),
            figure=("Disputed", cells.money(row.amount_minor, row.currency)),
            main=[
                journal_table(request, JournalEntry.objects.filter(subject=row.number)),
                refunds_table(request, payment.refunds.order_by("pk")),
                webhooks_table(request, [row.provider_reference]),
            ],
            side=[
                Facts("Dispute", self._facts(request, row)),
                Timeline("Status", history, empty="Its status has not changed yet."),
            ],
        )

    def _facts(self, request: HttpRequest, row: Dispute) -> list[tuple[str, str | SafeString]]:
        payment = row.payment
        return [
            ("Order", order_link(request, payment.reference)),
            ("Payment", cells.link(request, "payments.payment", payment.pk, cells.short(payment.number))),
            ("Follow the money", money_link(request, row.number)),
            ("Customer", payment.customer),
            ("Reason", row.reason.replace("_", " ") or cells.NOTHING),
            ("Answer until", cells.moment(row.evidence_due_at) if row.status in DISPUTE_OPEN else cells.NOTHING),
            ("Captured", cells.money(payment.captured_minor, payment.currency)),
            ("Withdrawn", cells.money(row.withdrawn_minor, row.currency)),
            ("Lost", cells.money(row.lost_minor, row.currency)),
            ("Refunds meanwhile", "settle it" if row.refundable else "not while it is open"),
            ("At the provider", cells.code(row.provider_reference)),
            ("Opened", cells.moment(row.opened_at)),
            ("Closed", cells.moment(row.closed_at)),
            ("Next look there", cells.moment(row.next_check_at)),
        ]
