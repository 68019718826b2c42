"""Two people for what is more than one of them may settle alone: the first one asks, the second one lets it happen.

The limit stands on the action's row as it was when it was asked for, and PostgreSQL refuses to begin what is above it without
a second name (`discrepancy_action_above_the_limit_is_approved`). As with refunds: docs/decisions/0013.
"""

from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.db.models.functions import Now

from foundation.database import in_seconds
from foundation.errors import NotFound
from payments.errors import SecondPersonNeeded
from reconciliation.errors import ActionInProgress, AlreadyResolved, NoteMissing, NothingToApprove
from reconciliation.locks import one_writer
from reconciliation.models import Discrepancy, DiscrepancyAction
from reconciliation.services.actions import carry_out, to_be_looked_at
from reconciliation.services.repairs import WAIT_FOR_RUN_S
from reconciliation.states import DiscrepancyState, Outcome
from reconciliation.types import ActionResult


def approve_action(*, action_id: UUID, by: str, note: str) -> ActionResult:
    """The second person says yes: the action is carried out, as who asked for it meant it. Belongs outside of transactions.

    Pressed again after a crash, it goes on where that one stopped. Raises NotFound, NoteMissing, NothingToApprove,
    SecondPersonNeeded, AlreadyResolved, ActionInProgress, and what the action itself raises.
    """
    record = _the(action_id, note)
    if record.by == by:
        raise SecondPersonNeeded
    waits = Q(outcome=Outcome.WAITING) | Q(outcome=Outcome.STARTED, approved_by=by, lease_until__lt=Now())
    lease_until = in_seconds(settings.RECONCILE_ACTION_LEASE_S)
    with one_writer(wait_s=WAIT_FOR_RUN_S):
        item = Discrepancy.objects.select_for_update().get(pk=record.discrepancy_id)
        if item.state == DiscrepancyState.AWAITING_APPROVAL:
            rows = DiscrepancyAction.objects.filter(waits, pk=record.pk)
            try:
                with transaction.atomic():
                    resumed = rows.filter(outcome=Outcome.STARTED).update(lease_until=lease_until)
                    begun = resumed or rows.update(
                        outcome=Outcome.STARTED, approved_by=by, approved_at=Now(), lease_until=lease_until
                    )
            except IntegrityError as error:
                raise ActionInProgress from error
            if not begun:
                raise NothingToApprove
        else:
            _close(record, "It was settled otherwise before anybody had approved this.")
    if item.state != DiscrepancyState.AWAITING_APPROVAL:
        raise AlreadyResolved if item.state == DiscrepancyState.RESOLVED else NothingToApprove
    record.refresh_from_db()
    return carry_out(item, record)


def reject_action(*, action_id: UUID, by: str, note: str) -> ActionResult:
    """Nothing is done: the second person says no, or who asked takes it back. Belongs outside of transactions.

    Raises NotFound, NoteMissing, NothingToApprove.
    """
    record = _the(action_id, note)
    with one_writer(wait_s=WAIT_FOR_RUN_S):
        text = f"Refused by {by}: {note.strip()}"
        if not _close(record, text):
            raise NothingToApprove
        item = Discrepancy.objects.select_for_update().get(pk=record.discrepancy_id)
        to_be_looked_at(item, by=by, why=f"refused {record.action}: {note.strip()}")
    return ActionResult(text, item.state, item.closed_as)


def _the(action_id: UUID, note: str) -> DiscrepancyAction:
    if not note.strip():
        raise NoteMissing(param="note")
    record = DiscrepancyAction.objects.filter(pk=action_id).first()
    if record is None:
        raise NotFound
    return record


def _close(record: DiscrepancyAction, why: str) -> bool:
    waiting = DiscrepancyAction.objects.filter(pk=record.pk, outcome=Outcome.WAITING)
    return bool(waiting.update(outcome=Outcome.REJECTED, result=why, finished_at=Now()))
