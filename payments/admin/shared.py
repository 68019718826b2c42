"""What several pages show: the order behind a reference, and tables of refunds, entries and webhooks."""

from typing import Any, ClassVar

from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from foundation import cells
from foundation.desk import Act, ChoiceFilter
from foundation.ids import parse_public_id
from foundation.sections import Facts, Section, Table
from payments import selectors, services
from payments.models import JournalEntry, Payment, Posting, Refund


def order_link(request: HttpRequest, number: str) -> SafeString:
    """The page of the order that a reference names, by the address's name: payments knows nothing of orders."""
    if not number.startswith("ord_") or not request.user.has_perm("orders.view_order"):
        return cells.code(number)
    url = reverse("admin:orders_order_change", args=[parse_public_id("ord", number)])
    return format_html('<a class="ec-link" href="{}">{}</a>', url, cells.code(number))


def money_link(request: HttpRequest, number: str) -> SafeString:
    """From an order to the bank and back, by the address's name: payments knows nothing of reconciliation."""
    return cells.report(request, "reconciliation.bankline/walk", "from the order to the bank", q=number)


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
                cells.money(one.amount_minor + one.credit_minor, one.currency),
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


# --- What nobody but a person can settle ------------------------------------------------------------


class NeedsAPerson(ChoiceFilter):
    """The operators' list."""

    title = "needs a person"
    parameter_name = "needs_a_person"
    options: ClassVar = ["yes"]

    def apply(self, rows: QuerySet[Any], value: str) -> QuerySet[Any]:
        return rows.filter(person_needed_at__isnull=False)


def _end(row: Payment | Refund, data: dict[str, Any], by: str) -> str:
    return services.end_unanswered(row.number, by=by, why=data["note"])


def _settled(row: Payment | Refund, data: dict[str, Any], by: str) -> str:
    services.settled_by_hand(row.number, by=by, why=data["note"])
    return "It is off the list; your note stands in its history."


end_unanswered: Act[Any] = Act(
    name="end",
    label="It was never made",
    says="Asks the provider once more. If it still knows nothing, this ends here: nothing was taken, nothing was sent.",
    permission="payments.decide_payment",
    run=_end,
    icon="block",
    danger=True,
)
settled_by_hand: Act[Any] = Act(
    name="settled",
    label="Settled",
    says="Takes it off the list of what needs a person, because that was done. Changes nothing else.",
    permission="payments.decide_payment",
    run=_settled,
    icon="task_alt",
)


def offered_to_decide(row: Payment | Refund) -> list[str]:
    """The acts for what needs a person, of those above."""
    if row.person_needed_at is None:
        return []
    return ["end" if services.is_unanswered(row) else "settled"]


def person_marks(row: Payment | Refund) -> list[SafeString]:
    """What a list shows beside the status."""
    marks = []
    if row.contradicted_at:
        marks.append(cells.badge("contradicted", "bad", title=row.contradiction))
    if row.person_needed_at:
        marks.append(cells.badge("needs a person", "bad", title=row.person_needed_why))
    return marks


def person_section(row: Payment | Refund) -> list[Section]:
    """Why a person must look, and what contradicts it."""
    facts: list[tuple[str, str | SafeString]] = []
    if row.person_needed_at:
        facts += [("Why", row.person_needed_why), ("Since", cells.moment(row.person_needed_at))]
    facts += [("The provider contradicts it", line) for line in row.contradiction.splitlines()]
    return [Facts("Needs a person" if row.person_needed_at else "Contradicted", facts)] if facts else []


def tries_section(row: Payment | Refund) -> list[Section]:
    """What the provider was asked without a clear answer; nothing where it always answered."""
    tries = selectors.tries_of(row.number)
    if not tries:
        return []
    return [
        Table(
            "What was tried",
            ["We", "The provider", cells.right("Times"), "First", "Last"],
            [
                [one.asked, one.answer, str(one.times), cells.brief(one.first_at), cells.brief(one.last_at)]
                for one in tries
            ],
            empty="The provider always answered.",
        )
    ]
