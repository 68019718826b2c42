"""Payments as the finance desk sees them. Read-only; what may be done are acts."""

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from foundation import cells
from foundation.desk import Act, ChoiceFilter, ReadOnlyAdmin, by_number, choice_filter
from foundation.sections import Entry, Facts, Page, Section, Timeline
from payments import desk, selectors, services
from payments.admin.shared import (
    NeedsAPerson,
    end_unanswered,
    journal_table,
    money_link,
    offered_to_decide,
    order_link,
    person_marks,
    person_section,
    refunds_table,
    settled_by_hand,
    tries_section,
    webhooks_table,
)
from payments.models import JournalEntry, Payment
from payments.states import PaymentStatus

_PAYMENT_STATES = [value for name, value in vars(PaymentStatus).items() if name.isupper()]


def refund(payment: Payment, data: dict[str, Any], by: str) -> str:
    return desk.refund(payment.number, data, currency=payment.currency, merchant_id=payment.merchant_id, by=by)


def recheck_payment(payment: Payment, data: dict[str, Any], by: str) -> str:
    services.take_provider_status(payment.number, by=by)
    return "Read at the provider: what it says now stands in our books."


class OwesFilter(ChoiceFilter):
    title = "owes"
    parameter_name = "owes"
    field = "refunds_owed_minor"
    options = ("a refund",)

    def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        return rows.filter(refunds_owed_minor__gt=0)


@admin.register(Payment)
class PaymentAdmin(ReadOnlyAdmin[Payment]):
    list_display = ("number_cell", "order", "customer_cell", "status_cell", "amount", "refunded", "provider", "created")
    list_filter = (
        NeedsAPerson,
        choice_filter("status", _PAYMENT_STATES),
        choice_filter("currency", ["usd", "eur", "gbp", "jpy"]),
        OwesFilter,
    )
    saved_views = (
        ("All", ""),
        ("Succeeded", "status=succeeded"),
        ("Failed", "status=failed"),
        ("Unknown", "status=unknown"),
        ("Needs a person", "needs_a_person=yes"),
        ("Waiting for the customer", "status=pending"),
        ("Owes a refund", "owes=a+refund"),
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
            form=desk.RefundForm,
            icon="undo",
            danger=True,
        ),
        end_unanswered,
        settled_by_hand,
    )

    def find(self, text: str) -> Q:
        if text.startswith(("pi_", "ch_", "py_")):
            return Q(provider_reference=text) | Q(charge_reference=text)
        if text.startswith("ord_"):
            return Q(reference=text)
        return by_number(Payment.id_of, text)

    def offered(self, row: Payment) -> list[str]:
        view = selectors.view(row)
        left_minor = view.captured_minor - view.refunded_minor - view.refunds_open_minor - row.disputed_lost_minor
        can_refund = row.status == PaymentStatus.SUCCEEDED and row.disputed_at is None and left_minor > 0
        return [
            *(["recheck"] if row.first_sent_at else []),
            *(["refund"] if can_refund else []),
            *offered_to_decide(row),
        ]

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
        return cells.money(payment.amount_minor + payment.credit_minor, payment.currency)

    @admin.display(description="Refunded")
    def refunded(self, payment: Payment) -> SafeString:
        return cells.money(payment.refunded_minor + payment.credit_refunded_minor or None, payment.currency)

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
        disputes = [one for one in selectors.disputes_of([row.reference]) if one.payment == row.number]
        return Page(
            title=cells.code(row.number),
            lead=[cells.state(row.status), *self._marks(row)],
            sub=cells.beside("for order", order_link(request, row.reference)),
            figure=("Amount", cells.money(row.amount_minor + row.credit_minor, row.currency)),
            main=[
                *person_section(row),
                *self._failure(row),
                *tries_section(row),
                refunds_table(request, row.refunds.order_by("pk")),
                *([desk.disputes_table(request, disputes)] if disputes else []),
                journal_table(request, JournalEntry.objects.filter(subject=row.number)),
                webhooks_table(request, [row.provider_reference] if row.provider_reference else []),
            ],
            side=side,
        )

    def _marks(self, payment: Payment) -> list[SafeString]:
        marks = []
        if payment.status == PaymentStatus.SUCCEEDED and not payment.settling:
            marks.append(cells.badge("does not settle", "warn", title="A second success: it is given back by itself."))
        if payment.refunds_owed_minor:
            marks.append(cells.badge("owes a refund", "bad", title="A refund came back: it is a debt to the customer."))
        if payment.refunds_excess_minor:
            marks.append(cells.badge("over-refunded", "bad"))
        if payment.disputed_at:
            marks.append(cells.badge("disputed", "bad", title="Nothing is refunded while its dispute is open."))
        if payment.disputed_lost_minor:
            marks.append(cells.badge("dispute lost", "bad"))
        marks += person_marks(payment)
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
            ("Follow the money", money_link(request, payment.number)),
            ("Customer", payment.customer),
            ("Method", payment.method),
            ("Asked for at the provider", cells.money(payment.amount_minor, currency)),
            *([("By store credit", cells.money(payment.credit_minor, currency))] if payment.credit_minor else []),
            ("Captured", cells.money(payment.captured_minor, currency)),
            ("Refunded", cells.money(payment.refunded_minor, currency)),
            *(
                [("Refunded as store credit", cells.money(payment.credit_refunded_minor, currency))]
                if payment.credit_refunded_minor
                else []
            ),
            ("Refunds under way", cells.money(payment.refunds_committed_minor - payment.refunded_minor, currency)),
            *(
                [("Owed to the customer", cells.money(payment.refunds_owed_minor, currency))]
                if payment.refunds_owed_minor
                else []
            ),
            *(
                [("Lost to disputes", cells.money(payment.disputed_lost_minor, currency))]
                if payment.disputed_lost_minor
                else []
            ),
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
