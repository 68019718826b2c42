"""What several pages show: the order behind a reference, and tables of refunds, entries and webhooks."""

from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from foundation import cells
from foundation.ids import parse_public_id
from foundation.sections import Table
from payments import selectors
from payments.models import JournalEntry, Posting, Refund


def order_link(request: HttpRequest, number: str) -> SafeString:
    """The page of the order that a reference names, by the address's name: payments knows nothing of orders."""
    if not number.startswith("ord_") or not request.user.has_perm("orders.view_order"):
        return cells.code(number)
    url = reverse("admin:orders_order_change", args=[parse_public_id("ord", number)])
    return format_html('<a class="ec-link" href="{}">{}</a>', url, cells.code(number))


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
