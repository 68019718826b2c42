"""One action on many discrepancies: planned, shown, confirmed with a note, then done row by row by workers.

Each row is the same `perform` that a person presses on one page, under a key of the bulk action: so a row that was done is
not done again, whoever repeats it; and one that settles more than who confirmed may settle alone is only asked for
(services/approvals.py). A process that dies half-way leaves its row behind with a lease; when that is over, the next worker, or
the next press, goes on there. One row's failure keeps no other from being done.
"""

import logging
from collections.abc import Sequence
from datetime import date, timedelta
from time import monotonic
from typing import Any
from uuid import UUID

from celery import current_app
from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from kombu.exceptions import OperationalError

from foundation.database import in_seconds, in_transaction
from foundation.errors import DomainError, IllegalTransition, InvalidInput, NotFound
from foundation.logs import bound_id
from payments.errors import ProviderUnavailable
from reconciliation import offers
from reconciliation.errors import ActionInProgress, BooksBusy, NoteMissing, NothingToDo, TooMany
from reconciliation.models import BulkAction, BulkItem, Discrepancy, DiscrepancyAction
from reconciliation.services.actions import check, perform
from reconciliation.states import BulkItemState, BulkState, Outcome
from reconciliation.types import ActionInput, info_of_action

log = logging.getLogger(__name__)

_TRANSIENT = (ActionInProgress, BooksBusy, ProviderUnavailable)
_LATER = "It is tried again in a moment: "


def plan_bulk(
    *,
    bulk_id: UUID,
    action: str,
    discrepancies: Sequence[UUID],
    by: str,
    scope: str,
    given: ActionInput | None = None,
    incident_id: UUID | None = None,
) -> BulkAction:
    """Write down what an action on these discrepancies would do: which rows it can do, and why it cannot do the others.
    Changes nothing else. `bulk_id` is made with the form: the same press plans once.

    Raises NotFound (an action that nobody knows, or that is not for many), InvalidInput, MissingInput, TooMany,
    NothingToDo (no rows at all).
    """
    given = given or ActionInput()
    try:
        info = info_of_action(action)
    except KeyError:
        raise NotFound from None
    if not info.in_bulk:
        raise InvalidInput(f"{info.label}: each item needs something of its own, so it is done on its page.")
    check(action, given)
    if not discrepancies:
        raise NothingToDo("Nothing was chosen.")
    if len(discrepancies) > settings.RECONCILE_BULK_ROWS:
        raise TooMany(f"One bulk action takes {settings.RECONCILE_BULK_ROWS} rows: narrow the list down.")
    inputs = {"owner": given.owner.strip(), "until": given.until and given.until.isoformat(), "account": given.account}
    with transaction.atomic(durable=True):
        _forget_old_plans()
        bulk, is_new = BulkAction.objects.get_or_create(
            pk=bulk_id,
            defaults={
                "action": action,
                "inputs": {name: value for name, value in inputs.items() if value},
                "scope": scope[:300],
                "planned_by": by,
                "incident_id": incident_id,
            },
        )
        if is_new:
            BulkItem.objects.bulk_create(_rows(bulk, discrepancies))
    bulk.refresh_from_db()
    return bulk


def _rows(bulk: BulkAction, discrepancies: Sequence[UUID]) -> list[BulkItem]:
    items = Discrepancy.objects.in_bulk(list(discrepancies))
    busy = set(
        DiscrepancyAction.objects.filter(
            discrepancy__in=items, outcome=Outcome.STARTED, lease_until__gte=Now()
        ).values_list("discrepancy_id", flat=True)
    )
    rows = []
    for pk in dict.fromkeys(discrepancies):
        if pk in items:
            item = items[pk]
            why_not = offers.why_not(item, bulk.action) or ("Somebody works on it right now." if pk in busy else "")
            rows.append(
                BulkItem(
                    bulk=bulk,
                    discrepancy=item,
                    state=BulkItemState.REFUSED if why_not else BulkItemState.PLANNED,
                    result=why_not,
                    currency=item.currency,
                    value_minor=item.value_minor,
                )
            )
    return rows


def _forget_old_plans() -> None:
    """Previews that nobody confirmed."""
    old = Now() - timedelta(days=settings.RECONCILE_BULK_PLANS_KEPT_FOR_DAYS)
    plans = BulkAction.objects.filter(state=BulkState.PLANNED, planned_at__lt=old).select_for_update(skip_locked=True)
    pks = list(plans.values_list("pk", flat=True)[: settings.RETENTION_BATCH])
    if pks:
        BulkAction.objects.filter(pk__in=pks, state=BulkState.PLANNED).delete()


def carry_out(*, bulk_id: UUID, by: str, note: str) -> str:
    """Confirm a plan: workers begin with its rows. Pressed again, by whomever, it is the same bulk action, and goes on where
    it stands: one that was stopped runs again, and rows that failed are tried once more. Returns a sentence for the desk.

    Raises NotFound, NoteMissing, NothingToDo.
    """
    if not note.strip():
        raise NoteMissing(param="note")
    with transaction.atomic(durable=True):
        bulk = _lock(bulk_id)
        rows = BulkItem.objects.filter(bulk=bulk)
        if bulk.state == BulkState.PLANNED:
            if not rows.filter(state=BulkItemState.PLANNED).exists():
                raise NothingToDo
            values: dict[str, Any] = {"by": by, "note": note.strip(), "confirmed_at": Now()}
            told = "It was begun: the rows tell what comes of each."
        else:
            values = {"finished_at": None}
            again = rows.filter(state=BulkItemState.FAILED)
            again.update(state=BulkItemState.PLANNED, attempts=0, available_at=Now(), finished_at=None)
            told = "It was begun before: it goes on where it stood."
            if not rows.filter(state=BulkItemState.PLANNED).exists():
                return "It was done before, and is done once."
        if bulk.state != BulkState.RUNNING:
            BulkAction.objects.filter(pk=bulk.pk).update(state=BulkState.RUNNING, **values)
    ring()
    return told


def stop(*, bulk_id: UUID) -> None:
    """No further row is begun. Raises NotFound, IllegalTransition (it does not run)."""
    with transaction.atomic(durable=True):
        bulk = _lock(bulk_id)
        if bulk.state != BulkState.RUNNING:
            raise IllegalTransition(f"It is {bulk.state}: there is nothing to stop.")
        BulkAction.objects.filter(pk=bulk.pk).update(state=BulkState.STOPPED)


def _lock(bulk_id: UUID) -> BulkAction:
    bulk = BulkAction.objects.select_for_update().filter(pk=bulk_id).first()
    if bulk is None:
        raise NotFound
    return bulk


def ring() -> None:
    """Wake a worker; where none can be reached, beat's scan follows."""
    try:
        headers = {"request_id": bound_id("request_id")}
        current_app.send_task("reconciliation.work_on_bulk", headers=headers, retry=False)
    except OperationalError as error:
        log.warning("no worker was woken for a bulk action: %s", error)


def work_on_bulk() -> int:
    """Do rows of confirmed bulk actions until none is due, or for RECONCILE_BULK_WORK_FOR_S. Returns how many were tried.

    Several workers share the rows. Belongs outside of transactions.
    """
    end = monotonic() + settings.RECONCILE_BULK_WORK_FOR_S
    tried = 0
    while monotonic() < end and (row := in_transaction(_claim)):
        _do(row)
        tried += 1
    _finish_done()
    return tried


def _claim() -> BulkItem | None:
    """The next row that is due, put off for as long as a worker may take for it."""
    row = (
        BulkItem.objects.select_for_update(skip_locked=True, of=("self",))
        .select_related("bulk")
        .filter(bulk__state=BulkState.RUNNING, state=BulkItemState.PLANNED, available_at__lte=Now())
        .order_by("bulk_id", "id")
        .first()
    )
    if row:
        row.attempts += 1
        lease = in_seconds(settings.RECONCILE_ACTION_LEASE_S)
        BulkItem.objects.filter(pk=row.pk).update(attempts=row.attempts, available_at=lease)
    return row


def _do(row: BulkItem) -> None:
    bulk = row.bulk
    if row.attempts > settings.RECONCILE_BULK_ATTEMPTS:
        _end(row, BulkItemState.FAILED, "Each process that began it died: look at the workers' log.")
        return
    try:
        result = perform(
            discrepancy_id=row.discrepancy_id,
            action=bulk.action,
            by=bulk.by,
            note=bulk.note,
            key=f"bulk:{bulk.pk}",
            given=_given(bulk),
        )
    except _TRANSIENT as error:
        if row.attempts < settings.RECONCILE_BULK_ATTEMPTS:
            pause = in_seconds(settings.RECONCILE_BULK_PAUSE_S)
            _end(row, BulkItemState.PLANNED, _LATER + error.detail, available_at=pause)
        else:
            _end(row, BulkItemState.FAILED, error.detail)
    except DomainError as error:
        _end(row, BulkItemState.FAILED, error.detail)
    except Exception as error:
        log.exception("bulk action %s, discrepancy %s", bulk.number, row.discrepancy_id)
        _end(row, BulkItemState.FAILED, f"{type(error).__name__}: {error}")
    else:
        _end(row, BulkItemState.ASKED if result.waits else BulkItemState.DONE, result.text)


def _given(bulk: BulkAction) -> ActionInput:
    until = bulk.inputs.get("until")
    return ActionInput(
        owner=bulk.inputs.get("owner", ""),
        until=date.fromisoformat(until) if until else None,
        account=bulk.inputs.get("account", ""),
    )


def _end(row: BulkItem, state: str, result: str, **values: Any) -> None:
    """Unless another worker has taken the row meanwhile: then what that one finds counts."""
    if state != BulkItemState.PLANNED:
        values["finished_at"] = Now()
    mine = BulkItem.objects.filter(pk=row.pk, state=BulkItemState.PLANNED, attempts=row.attempts)
    mine.update(state=state, result=result or "Done.", **values)


def _finish_done() -> None:
    """Bulk actions of which no row is left to do."""
    running = BulkAction.objects.filter(state=BulkState.RUNNING)
    with transaction.atomic(durable=True):
        for bulk in running.select_for_update(skip_locked=True):
            if not bulk.rows.filter(state=BulkItemState.PLANNED).exists():
                BulkAction.objects.filter(pk=bulk.pk).update(state=BulkState.DONE, finished_at=Now())
