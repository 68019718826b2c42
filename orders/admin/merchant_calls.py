"""Calls to merchants' own systems: what became of each; sent again or dropped by an operator."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Q
from django.http import HttpRequest
from django.utils.safestring import SafeString

from catalog import selectors as catalog
from foundation import cells
from foundation.desk import Act, ReadOnlyAdmin, by_number, choice_filter
from foundation.sections import Facts, Page, Section, Table, Text
from orders.models import MerchantCall
from orders.services import merchant_calls


def send_again(call: MerchantCall, data: dict[str, Any], by: str) -> str:
    merchant_calls.send_again(call_id=call.pk, by=by)
    return "It is sent again at once, under its own id: a merchant who has it already drops it."


def send_again_since(call: MerchantCall, data: dict[str, Any], by: str) -> str:
    count = merchant_calls.send_again_since(call_id=call.pk, by=by)
    return f"{count} calls are sent again, each under its own id, the oldest first."


def drop(call: MerchantCall, data: dict[str, Any], by: str) -> str:
    merchant_calls.drop(call_id=call.pk, by=by, reason=data["note"])
    return "The call is dropped: the merchant will not hear of it from us."


@admin.register(MerchantCall)
class MerchantCallAdmin(ReadOnlyAdmin[MerchantCall]):
    list_display = ("call", "event_cell", "about", "merchant", "state_cell", "attempts_cell", "tried", "answer")
    list_filter = (choice_filter("state", MerchantCall.State.values),)
    saved_views = (
        ("All", ""),
        ("Given up", "state=given_up"),
        ("Waiting", "state=pending"),
        ("Dropped", "state=dropped"),
    )
    search_help_text = "msg_…, the whole number of an order, refund or dispute, or a merchant's name or id"
    acts = (
        Act(
            name="again",
            label="Send again",
            says="Sends this call once more, now and with a fresh set of attempts, under its own id.",
            permission="orders.decide_merchantcall",
            run=send_again,
            icon="replay",
        ),
        Act(
            name="again_since",
            label="Send everything again from here on",
            says="For a merchant who lost what it was told: this call and all later ones to the same merchant.",
            permission="orders.decide_merchantcall",
            run=send_again_since,
            icon="fast_forward",
        ),
        Act(
            name="drop",
            label="Drop",
            says="Decides that the merchant shall not be told of this by us.",
            permission="orders.decide_merchantcall",
            run=drop,
            icon="cancel",
            danger=True,
        ),
    )

    def find(self, text: str) -> Q:
        if text.startswith("msg_"):
            return by_number(MerchantCall.id_of, text)
        try:
            return Q(merchant_id=UUID(text))
        except ValueError:
            merchant = catalog.merchant_called(text)
            return Q(merchant_id=merchant) if merchant else Q(subject=text)

    def prepare(self, rows: list[MerchantCall]) -> None:
        names = catalog.merchant_names({row.merchant_id for row in rows})
        for row in rows:
            row.__dict__["merchant_name"] = names.get(row.merchant_id, "")

    def offered(self, row: MerchantCall) -> list[str]:
        match row.state:
            case MerchantCall.State.PENDING:
                return ["drop"]
            case MerchantCall.State.GIVEN_UP:
                return ["again", "again_since", "drop"]
            case _:
                return ["again", "again_since"]

    @admin.display(description="Call")
    def call(self, row: MerchantCall) -> SafeString:
        return cells.short(row.number)

    @admin.display(description="Event")
    def event_cell(self, row: MerchantCall) -> str:
        return row.event

    @admin.display(description="About")
    def about(self, row: MerchantCall) -> SafeString:
        return cells.code(row.subject)

    @admin.display(description="Merchant")
    def merchant(self, row: MerchantCall) -> str:
        return str(row.__dict__["merchant_name"])

    @admin.display(description="State")
    def state_cell(self, row: MerchantCall) -> SafeString:
        return _state(row)

    @admin.display(description="Attempts")
    def attempts_cell(self, row: MerchantCall) -> SafeString:
        return cells.number(row.attempts)

    @admin.display(description="Last tried")
    def tried(self, row: MerchantCall) -> SafeString:
        return cells.moment(row.last_tried_at)

    @admin.display(description="Last answer")
    def answer(self, row: MerchantCall) -> str:
        return row.last_answer[:80] or "—"

    def page(self, request: HttpRequest, row: MerchantCall) -> Page:
        main: list[Section] = [Text("Payload", json.dumps(row.payload, indent=2, sort_keys=True))]
        if row.last_answer:
            main.insert(0, Text("Last answer", row.last_answer))
        merchant = catalog.merchant_names([row.merchant_id]).get(row.merchant_id, str(row.merchant_id))
        waits = row.state == MerchantCall.State.PENDING
        return Page(
            title=row.event,
            lead=[_state(row)],
            sub=cells.code(row.number),
            main=main,
            side=[
                Facts(
                    "Call",
                    [
                        ("Merchant", cells.link(request, "catalog.merchant", row.merchant_id, merchant)),
                        ("About", cells.code(row.subject)),
                        ("Attempts", str(row.attempts)),
                        ("Written down", cells.moment(row.created_at)),
                        ("Last tried", cells.moment(row.last_tried_at)),
                        ("Next try", cells.moment(row.available_at if waits else None)),
                        ("Answered", cells.moment(row.delivered_at)),
                        ("Decided by", row.decided_by or cells.NOTHING),
                        ("Why", row.decided_reason or cells.NOTHING),
                        ("Request", cells.code(row.request_id)),
                    ],
                )
            ],
        )


def calls_table(request: HttpRequest, calls: Sequence[MerchantCall]) -> Table:
    """What the merchant's own system was told about an object."""
    return Table(
        "Told to the merchant's system",
        ["Event", "About", "State", "Last tried", "Last answer"],
        [
            [
                cells.link(request, "orders.merchantcall", one.pk, one.event),
                cells.short(one.subject),
                _state(one),
                cells.brief(one.last_tried_at),
                one.last_answer[:80] or cells.NOTHING,
            ]
            for one in calls
        ],
        empty="The merchant has no webhook address, or nothing has happened yet that it is told of.",
    )


def _state(call: MerchantCall) -> SafeString:
    return cells.state(call.state)
