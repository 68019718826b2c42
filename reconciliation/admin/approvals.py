"""What waits for a second person on a discrepancy: shown, approved or refused."""

from typing import Any

from foundation import cells
from foundation.desk import Act
from foundation.money import format_minor
from foundation.sections import Facts, Section
from reconciliation import offers, services
from reconciliation.errors import NothingToApprove
from reconciliation.models import Discrepancy, DiscrepancyAction

APPROVE, REJECT = "approve", "reject"
PERMISSION = "reconciliation.approve_discrepancy"


def _waiting(item: Discrepancy) -> DiscrepancyAction:
    record = offers.waiting_action(item)
    if record is None:
        raise NothingToApprove
    return record


def _approve(item: Discrepancy, data: dict[str, Any], by: str) -> str:
    return services.approve_action(action_id=_waiting(item).pk, by=by, note=data["note"]).text


def _reject(item: Discrepancy, data: dict[str, Any], by: str) -> str:
    return services.reject_action(action_id=_waiting(item).pk, by=by, note=data["note"]).text


ACTS: tuple[Act[Discrepancy], ...] = (
    Act(
        name=APPROVE,
        label="Approve it",
        says="You are the second person: what was asked for is done now, under both names.",
        permission=PERMISSION,
        run=_approve,
        icon="how_to_reg",
    ),
    Act(
        name=REJECT,
        label="Refuse it",
        says="Nothing is done; the item is looked at again.",
        permission=PERMISSION,
        run=_reject,
        icon="block",
    ),
)


def offered(item: Discrepancy) -> list[str]:
    return [act.name for act in ACTS] if offers.waiting_action(item) else []


def section(item: Discrepancy) -> list[Section]:
    """Who asks for what, and above which limit."""
    record = offers.waiting_action(item)
    if record is None:
        return []
    currency = record.currency

    def money(minor: int | None) -> str:
        return format_minor(minor or 0, currency) if currency else "—"

    return [
        Facts(
            "Waits for a second person",
            [
                ("What", record.action.replace("_", " ")),
                ("Asked by", cells.who(record.by, record.note)),
                ("Settles", money(record.amount_minor)),
                ("May settle alone", money(record.approval_above_minor)),
            ],
        )
    ]
