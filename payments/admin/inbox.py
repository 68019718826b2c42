"""The webhook inbox as operators see it."""

from typing import Any

from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest
from django.utils.safestring import SafeString

from foundation import cells
from foundation.database import database_now
from foundation.desk import Act, ReadOnlyAdmin
from foundation.sections import Facts, Page
from payments import selectors, services
from payments.models import InboxEvent


def replay(event: InboxEvent, data: dict[str, Any], by: str) -> str:
    services.replay_event(event.pk)
    return "A worker reads the object at the provider again, and applies what it says."


@admin.register(InboxEvent)
class InboxEventAdmin(ReadOnlyAdmin[InboxEvent]):
    list_display = ("event", "type_cell", "object_cell", "made", "received")
    ordering = ("-received_at",)
    acts = (
        Act(
            name="replay",
            label="Work on it again",
            says="Has a worker read the object at the provider again and apply what it says now. Twice does no harm.",
            permission="payments.replay_inboxevent",
            run=replay,
            icon="replay",
        ),
    )
    search_help_text = "evt_…, pi_…, ch_…, re_…, dp_… or po_…"

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
