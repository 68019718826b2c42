"""What several pages show: an item's state and age, links to what it is about, and the residual of a run."""

from collections.abc import Mapping
from uuid import UUID

from django.http import HttpRequest
from django.utils.safestring import SafeString

from foundation import cells
from foundation.errors import NotFound
from foundation.ids import parse_public_id, public_id
from reconciliation.models import Discrepancy, Incident, ReconciliationRun
from reconciliation.states import DiscrepancyState
from reconciliation.types import Severity

SEVERITY: dict[str, cells.Tone] = {Severity.HIGH: "bad", Severity.MEDIUM: "warn", Severity.LOW: "quiet"}


def age(days: int) -> SafeString:
    tone: cells.Tone = "quiet" if days <= 1 else "warn" if days <= 7 else "bad"
    return cells.badge("today" if days <= 0 else f"{days} day" if days == 1 else f"{days} days", tone)


def state(item: Discrepancy) -> SafeString:
    if item.state == DiscrepancyState.RESOLVED:
        return cells.beside(
            cells.badge(item.closed_as, "good"), "" if item.verified_at else cells.badge("to be confirmed", "info")
        )
    return cells.state(item.state)


def order_link(request: HttpRequest, reference: str) -> SafeString:
    """What the provider's metadata call an order need not be one of ours."""
    try:
        return cells.link(request, "orders.order", parse_public_id("ord", reference), cells.short(reference))
    except NotFound:
        return cells.code(reference)


def walk_link(request: HttpRequest, text: str, shown: str | SafeString = "order to bank") -> SafeString:
    """Leads to the walk from this number."""
    return cells.report(request, "reconciliation.bankline/walk", shown, q=text) if text else cells.NOTHING


def linked(request: HttpRequest, model: str, pk: object, number: str) -> SafeString:
    return cells.link(request, model, pk, cells.short(number)) if pk else cells.NOTHING


def incident_link(request: HttpRequest, incident_id: UUID | None) -> SafeString:
    """What it was grouped with."""
    number = public_id(Incident.PREFIX, incident_id) if incident_id else ""
    return linked(request, "reconciliation.incident", incident_id, number)


def piles(value: Mapping[str, int]) -> SafeString:
    """Sums of several currencies, one below the other."""
    return cells.lines([cells.money(minor, currency) for currency, minor in sorted(value.items()) if minor])


def run_link(request: HttpRequest, run: ReconciliationRun | None) -> SafeString:
    if run is None:
        return cells.NOTHING
    return cells.link(request, "reconciliation.reconciliationrun", run.pk, f"run of {run.date:%d %b}")
