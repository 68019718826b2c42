"""What can be done with a discrepancy, what cannot and why, and with what: pages, previews and the actions themselves ask here."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Q
from django.db.models.functions import Now

from foundation.ids import public_id
from orders import selectors as orders
from orders.types import OrderView
from payments import selectors as payments
from reconciliation.models import Discrepancy, DiscrepancyAction
from reconciliation.states import OPEN_STATES, DiscrepancyState, Outcome
from reconciliation.types import (
    NUMBER_PREFIXES,
    Action,
    ActionInfo,
    Candidate,
    Kind,
    Proved,
    actions_of,
    info_of,
    info_of_action,
)


def waiting_action(item: Discrepancy) -> DiscrepancyAction | None:
    """What waits for a second person; or what that person approved, where the process that did it died."""
    if item.state != DiscrepancyState.AWAITING_APPROVAL:
        return None
    dead = Q(outcome=Outcome.STARTED, lease_until__lt=Now()) & ~Q(approved_by="")
    return item.actions.filter(Q(outcome=Outcome.WAITING) | dead).order_by("id").last()


def offered_actions(item: Discrepancy) -> list[ActionInfo]:
    """The actions that make sense in the discrepancy's present state."""
    if item.state == DiscrepancyState.RESOLVED:
        return []
    if waiting_action(item):
        return [info for info in actions_of(item.kind, item.object_kind) if info.name == Action.REQUERY]
    hidden = {
        DiscrepancyState.TIMING: {Action.RELEASE, Action.IGNORE_UNTIL},
        DiscrepancyState.OPEN: {Action.RELEASE},
        DiscrepancyState.INVESTIGATING: {Action.CLAIM},
        DiscrepancyState.AWAITING_APPROVAL: {Action.CLAIM, Action.RELEASE, Action.IGNORE_UNTIL},
        DiscrepancyState.IGNORED: {Action.RELEASE, Action.IGNORE_UNTIL},
    }[item.state]
    if _is_of_balance(item):
        hidden = hidden | {Action.WRITE_OFF}  # no entry of ours makes the provider's rows add up to what it tells
    if why_not_given_back(item):
        hidden = hidden | {Action.REFUND_CUSTOMER}
    return [info for info in actions_of(item.kind, item.object_kind) if info.name not in hidden]


def _is_of_balance(item: Discrepancy) -> bool:
    return bool(item.evidence.get("proof") == Proved.BALANCE)


def why_not_given_back(item: Discrepancy) -> str:
    """Why nothing of a charge that both books know can go back, in a sentence; empty where it can. The page, the preview and the
    repair all ask here.
    """
    if item.kind not in (Kind.AMOUNT_MISMATCH, Kind.CURRENCY_MISMATCH):
        return ""
    if is_set_apart(item):
        return ""
    if item.object_kind == "charge" and item.ours_status != "succeeded":
        return "Our payment has not heard yet of what Stripe took: read it at the provider, on its own page."
    if item.kind == Kind.CURRENCY_MISMATCH:
        return "Our books hold it in another currency than Stripe took, and convert nothing: accept the difference."
    if (item.difference_minor or 0) <= 0:
        return "Stripe did not take too much: there is nothing to give back."
    return ""


def is_set_apart(item: Discrepancy) -> bool:
    """Whether the provider took what we never asked for, under an attempt of ours that has not succeeded: no sale stands on it,
    so all of it can go back."""
    if item.kind not in (Kind.AMOUNT_MISMATCH, Kind.CURRENCY_MISMATCH) or item.object_kind != "charge":
        return False
    # An attempt that succeeded never leaves that state: most items need no look at their payment.
    if not item.payment_id or item.ours_status == "succeeded":
        return False
    payment = payments.get_payment(item.payment_number)
    return payment.contradicted and payment.status != "succeeded"


def why_not(item: Discrepancy, action: str) -> str:
    """Why an action cannot be done to a discrepancy with others, in a sentence; empty where it can."""
    info = info_of_action(action)
    if item.state == DiscrepancyState.RESOLVED:
        return "It is resolved already."
    if info not in actions_of(item.kind, item.object_kind):
        return f"“{info.label}” is not for “{info_of(item.kind, item.object_kind).label}”."
    if action == Action.WRITE_OFF and _is_of_balance(item):
        return "Stripe's own rows do not add up to its balance: no entry of ours mends that."
    if action == Action.REFUND_CUSTOMER and (why := why_not_given_back(item)):
        return why
    if info not in offered_actions(item):
        return f"It is {item.state.replace('_', ' ')}: {info.label.lower()} is not offered."
    if action == Action.CREATE_MISSING_PAYMENT and not orders.is_order(item.order_reference):
        return "Its metadata name no order: choose one on its page."
    if action == Action.REFUND_CUSTOMER and _names_no_customer(item):
        return "Its metadata name no order, so no customer: choose one on its page."
    if action == Action.MARK_FRAUD and item.payment_id is None:
        return "No payment of ours stands for it."
    return ""


def _names_no_customer(item: Discrepancy) -> bool:
    apart = (Kind.MISSING_IN_OUR_SYSTEM, Kind.DUPLICATE_CHARGE)
    return item.kind in apart and not orders.is_order(item.order_reference)


# --- With what --------------------------------------------------------------------------------------


def candidates_of(item: Discrepancy) -> list[Candidate]:
    """What a discrepancy may be on the other side, as the last run saw it: the best first, then the runner-up."""
    if item.object_kind not in ("charge", "refund"):  # a bank line's are told otherwise
        return []
    return [_candidate(item.object_kind, card) for card in item.evidence.get("candidates", [])]


def _candidate(object_kind: str, card: dict[str, Any]) -> Candidate:
    number = public_id(NUMBER_PREFIXES[object_kind], UUID(card["id"])) if card["side"] == "ours" else ""
    return Candidate(
        side=card["side"],
        number=number,
        source=card["source"],
        amount_minor=card["minor"],
        currency=card["currency"],
        at=datetime.fromisoformat(card["at"]),
        order_reference=card.get("order", ""),
        agrees=tuple(card["agrees"]),
        differs=tuple(card["differs"]),
    )


def candidate_orders(item: Discrepancy) -> list[OrderView]:
    """Orders to which a charge that we miss may belong: of its amount and currency, placed not long before it. A person
    chooses; nothing is matched by guess.
    """
    if item.kind != Kind.MISSING_IN_OUR_SYSTEM or item.object_kind != "charge" or item.theirs_at is None:
        return []
    if item.state == DiscrepancyState.RESOLVED:
        return []
    return orders.orders_asking(
        total_minor=item.theirs_amount_minor or 0,
        currency=item.theirs_currency,
        since=item.theirs_at - timedelta(seconds=settings.RECONCILE_CANDIDATES_WITHIN_S),
        until=item.theirs_at + timedelta(seconds=settings.RECONCILE_NEWS_SKEW_S),
        limit=settings.RECONCILE_CANDIDATES_SHOWN,
    )


def candidate_movements(item: Discrepancy) -> list[Discrepancy]:
    """Movements of ours that Stripe does not know, of the same amount and currency as one of Stripe's that we do not know:
    what it may be linked with."""
    missing = {
        Kind.MISSING_IN_OUR_SYSTEM: Kind.MISSING_IN_STRIPE,
        Kind.MISSING_IN_OUR_SYSTEM_REFUND: Kind.MISSING_IN_STRIPE_REFUND,
    }
    if item.kind not in missing or item.state == DiscrepancyState.RESOLVED:
        return []
    found = Discrepancy.objects.filter(
        state__in=OPEN_STATES,
        kind=missing[item.kind],
        ours_currency=item.theirs_currency,
        ours_amount_minor=item.theirs_amount_minor,
    )
    return list(found.order_by("business_date", "pk")[: settings.RECONCILE_CANDIDATES_SHOWN])
