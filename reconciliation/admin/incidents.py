"""Incidents: discrepancies that one cause explains, how many and what they are worth, and what to do about all of them."""

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from foundation import cells
from foundation.desk import ChoiceFilter, ReadOnlyAdmin, by_number, choice_filter
from foundation.sections import Facts, Page, Table
from reconciliation import selectors
from reconciliation.admin import plans
from reconciliation.admin.shared import piles, state
from reconciliation.models import BulkAction, Discrepancy, Incident
from reconciliation.types import KINDS, Cause, info_of_action

_ITEMS_SHOWN = 100
_BULKS_SHOWN = 20


class OpenFilter(ChoiceFilter):
    """Without a choice: what somebody has to look at."""

    title = "state"
    parameter_name = "state"
    options = ("open", "closed", "all")
    default = "open"

    def apply(self, rows: QuerySet[Incident], value: str) -> QuerySet[Incident]:
        return rows if value == "all" else rows.filter(closed_at__isnull=value == "open")


class SizeFilter(ChoiceFilter):
    title = "size"
    parameter_name = "size"
    options = ("several", "one")

    def apply(self, rows: QuerySet[Incident], value: str) -> QuerySet[Incident]:
        return rows.filter(items__gt=1) if value == "several" else rows.filter(items=1)


@admin.register(Incident)
class IncidentAdmin(ReadOnlyAdmin[Incident]):
    list_display = ("what", "when", "open_cell", "items_cell", "value_cell", "state_cell", "opened")
    list_filter = (OpenFilter, SizeFilter, choice_filter("cause", [Cause.WEBHOOK_GAP, Cause.SAME_KIND]))
    saved_views = (
        ("Open", "state=open"),
        ("Open, several items", "state=open&size=several"),
        ("Closed", "state=closed"),
        ("All", "state=all"),
    )
    search_help_text = "Number of an incident"

    def find(self, text: str) -> Q:
        return by_number(Incident.id_of, text)

    @admin.display(description="What")
    def what(self, incident: Incident) -> SafeString:
        return cells.sub(_title(incident), incident.mark or incident.endpoint)

    @admin.display(description="When")
    def when(self, incident: Incident) -> SafeString:
        return cells.sub(cells.brief(incident.first_at), cells.beside("to", cells.brief(incident.last_at)))

    @admin.display(description="Open")
    def open_cell(self, incident: Incident) -> SafeString:
        return cells.number(incident.open_items)

    @admin.display(description="Items")
    def items_cell(self, incident: Incident) -> SafeString:
        return cells.number(incident.items)

    @admin.display(description="Σ")
    def value_cell(self, incident: Incident) -> SafeString:
        return piles(incident.value)

    @admin.display(description="State")
    def state_cell(self, incident: Incident) -> SafeString:
        return _state(incident)

    @admin.display(description="Opened")
    def opened(self, incident: Incident) -> SafeString:
        return cells.moment(incident.opened_at)

    def page(self, request: HttpRequest, row: Incident) -> Page:
        found = selectors.incident_page(row)
        items = Discrepancy.objects.filter(incident=row).order_by("id")[:_ITEMS_SHOWN]
        bulks = BulkAction.objects.filter(incident=row).order_by("-pk")[:_BULKS_SHOWN]
        return Page(
            title=_title(row),
            lead=[_state(row)],
            sub=cells.code(row.number),
            figure=("Σ of all items", piles(row.value)),
            top=[Facts("What probably lies behind it", [("Hint", found.hint)])],
            main=[
                Table(
                    "Its items by kind",
                    ["Kind", cells.right("Items"), cells.right("Σ")],
                    [
                        [KINDS[kind].label, cells.number(pile.count), piles(pile.value)]
                        for kind, pile in found.kinds.items()
                    ],
                    empty="It has no items.",
                ),
                Table(
                    "Items" if row.items <= _ITEMS_SHOWN else f"The first {_ITEMS_SHOWN} items",
                    ["Kind", "Order", "At Stripe", "State", cells.right("Difference")],
                    [
                        [
                            cells.link(
                                request,
                                "reconciliation.discrepancy",
                                one.pk,
                                cells.sub(one.get_kind_display(), one.source),
                            ),
                            cells.short(one.order_reference),
                            cells.brief(one.theirs_at),
                            state(one),
                            cells.difference(one.difference_minor, one.currency),
                        ]
                        for one in items
                    ],
                    empty="It has no items.",
                    link=plans.link(row) if row.open_items else None,
                ),
                Table(
                    "What was done to many of them",
                    ["Action", "State", "By", "Planned"],
                    [
                        [
                            cells.link(request, "reconciliation.bulkaction", one.pk, info_of_action(one.action).label),
                            cells.state(one.state),
                            one.by or one.planned_by,
                            cells.moment(one.planned_at),
                        ]
                        for one in bulks
                    ],
                    empty="Nothing yet.",
                ),
            ],
            side=[
                Facts(
                    "Incident",
                    [
                        ("Open items", cells.number(row.open_items)),
                        ("All items", cells.number(row.items)),
                        ("Σ of open items", piles(row.open_value)),
                        ("Cause", row.cause.replace("_", " ")),
                        ("Part of Stripe's API", row.endpoint or cells.NOTHING),
                        ("They share", row.mark or cells.NOTHING),
                        ("Last news before", cells.moment(row.gap_since)),
                        ("First news after", cells.moment(row.gap_until)),
                        ("First item", cells.moment(row.first_at)),
                        ("Last item", cells.moment(row.last_at)),
                        ("News of that time", cells.number(found.news_meanwhile)),
                        ("Merchants", cells.number(found.merchants)),
                        ("Orders", cells.number(found.orders)),
                        ("Opened", cells.moment(row.opened_at)),
                        ("Closed", cells.moment(row.closed_at)),
                    ],
                ),
                Facts(
                    "States of its items",
                    [(name.replace("_", " "), cells.number(count)) for name, count in sorted(found.states.items())],
                ),
            ],
        )


def _title(incident: Incident) -> str:
    if incident.cause == Cause.WEBHOOK_GAP:
        return f"No news from {incident.gap_since:%d %b %H:%M}" + (
            f" to {incident.gap_until:%d %b %H:%M}" if incident.gap_until else " on"
        )
    return KINDS[incident.kind].label


def _state(incident: Incident) -> SafeString:
    return cells.badge("closed", "good") if incident.closed_at else cells.badge("open", "warn")
