"""What people do about a discrepancy: one service, a note each time, done once however often the button is pressed.
Many at once are the same service, row by row: services/bulk.py.

Written down before it is done, done outside of transactions, then compared again: an action that made both sides equal
closes the item as fixed, and the next run confirms that or opens it again.
"""

import logging
from ast import literal_eval
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, fields
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.db.models.functions import Now

from foundation.database import database_now, in_seconds
from foundation.errors import DomainError, InvalidInput, MissingInput, NotFound
from foundation.ids import parse_public_id, uuid7
from foundation.money import format_minor
from foundation.transition import transition
from payments.types import CORRECTED_AGAINST
from reconciliation import books, matching, offers, selectors
from reconciliation.errors import (
    ActionInProgress,
    ActionNotOffered,
    AlreadyResolved,
    ApprovalPending,
    BooksBusy,
    FiguresChanged,
    NoteMissing,
)
from reconciliation.locks import one_writer
from reconciliation.models import Discrepancy, DiscrepancyAction, DiscrepancyHistory
from reconciliation.services import findings, incidents, matches
from reconciliation.services.repairs import REPAIRS, WAIT_FOR_RUN_S, asks_nobody, compare, given_back_minor
from reconciliation.states import DISCREPANCY_EDGES, UNRESOLVED_STATES, ClosedAs, DiscrepancyState, Outcome
from reconciliation.types import (
    BROKEN_PROMISE,
    NOT_JUDGED_BY_RUNS,
    Action,
    ActionInfo,
    ActionInput,
    ActionResult,
    actions_of,
)

log = logging.getLogger(__name__)

# Meant to be pressed again and again: each press is one of its own.
_REPEATABLE = {Action.REQUERY, Action.REPLAY_EVENT, Action.CLAIM, Action.ASSIGN, Action.RELEASE, Action.IGNORE_UNTIL}
_CLOSES = {Action.ACCEPT, Action.MARK_FRAUD}


def perform(
    *,
    discrepancy_id: UUID,
    action: str,
    by: str,
    note: str,
    key: str = "",
    given: ActionInput | None = None,
) -> ActionResult:
    """Take an action on a discrepancy, and record who, when, why and what came of it, failures included.

    `key` names the press of the button (a form's nonce): the same key is done once, and answers again with what it
    did. Without one, an action is done once each time the discrepancy is opened, except those that are meant to be
    repeated. What settles more than that person may settle alone is written down, and waits for a second one
    (services/approvals.py). Belongs outside of transactions.

    Raises ApprovalPending, NotFound, NoteMissing, MissingInput, InvalidInput, ActionNotOffered, AlreadyResolved, ActionInProgress,
    BooksBusy, FiguresChanged, ActionTakenOver, IllegalTransition, and what the repair itself raises (ProviderUnavailable,
    ContradictsProvider, …).
    """
    if not note.strip():
        raise NoteMissing(param="note")
    item = Discrepancy.objects.filter(pk=discrepancy_id).first()
    if item is None:
        raise NotFound
    info = next((one for one in actions_of(item.kind, item.object_kind) if one.name == action), None)
    if info is None:
        raise ActionNotOffered
    given = given or ActionInput()
    check(action, given)
    item, record, is_new = _begin(item.pk, info, key=key, by=by, note=note.strip(), given=given)
    if record.outcome == Outcome.WAITING:
        return ActionResult(record.result, DiscrepancyState.AWAITING_APPROVAL, "", replayed=not is_new, waits=True)
    if not is_new:
        return ActionResult(record.result, item.state, item.closed_as, replayed=True)
    return carry_out(item, record, given)


def carry_out(item: Discrepancy, record: DiscrepancyAction, given: ActionInput | None = None) -> ActionResult:
    """Do what a record that is begun asks for, and complete the record. Belongs outside of transactions.

    `given` None: as the record keeps it. Raises what the action raises; the record then says that it failed.
    """
    given = given or _given(record)
    info = next(one for one in actions_of(item.kind, item.object_kind) if one.name == record.action)
    try:
        _must_be_agreed(item, record)
        # What asks nobody outside is one commit with what comes of it.
        with one_writer(wait_s=WAIT_FOR_RUN_S) if asks_nobody(item, record.action) else nullcontext():
            done = REPAIRS[record.action](item, record, given) if record.action in REPAIRS else ""
            return _finish(item, info, record, given, done)
    except Exception as error:
        detail = error.detail if isinstance(error, DomainError) else f"{type(error).__name__}: {error}"
        _close_record(record, Outcome.FAILED, detail)
        if isinstance(error, FiguresChanged):
            with suppress(BooksBusy), one_writer(wait_s=WAIT_FOR_RUN_S):  # else the next run shows them
                _look(item, info, record)
                findings.look_again(item.last_seen_run_id, by=record.by, now=database_now())
        if record.approved_by:
            item.refresh_from_db()
            to_be_looked_at(item, by=record.by, why=f"{record.action} failed")
        raise


def _must_be_agreed(item: Discrepancy, record: DiscrepancyAction) -> None:
    """A run may have found other figures since somebody asked for it, or approved it. Raises FiguresChanged."""
    if record.amount_minor is not None and item.stake_minor > record.amount_minor:
        raise FiguresChanged


def to_be_looked_at(item: Discrepancy, *, by: str, why: str) -> None:
    """What waited for a second person waits for nobody any more, and is not settled: somebody looks at it again."""
    if item.state == DiscrepancyState.AWAITING_APPROVAL:
        with transaction.atomic():
            transition(
                item,
                DiscrepancyState.INVESTIGATING,
                edges=DISCREPANCY_EDGES,
                history=DiscrepancyHistory,
                by=by,
                why=why,
                field="state",
            )


def _given(record: DiscrepancyAction) -> ActionInput:
    """What the record keeps as text."""
    kept: dict[str, Any] = dict(record.inputs)
    for one in fields(ActionInput):
        if one.name in kept and not isinstance(one.default, str):
            text = kept[one.name]
            kept[one.name] = date.fromisoformat(text) if one.name == "until" else literal_eval(text)
    return ActionInput(**kept)


def _stake(item: Discrepancy, info: ActionInfo, given: ActionInput, by: str) -> dict[str, Any]:
    """What an action settles, or what is named to be given back with what went back for this item before, and what that person
    may settle alone: the columns of its record."""
    if not info.settles:
        return {}
    before_minor = given_back_minor(item) if info.name == Action.REFUND_CUSTOMER else 0
    return {
        "amount_minor": max(item.stake_minor, given.amount_minor or 0) + before_minor,
        "currency": item.currency,
        "approval_above_minor": selectors.settles_alone_minor(by, item.currency),
    }


def check(action: str, given: ActionInput) -> None:
    """Whether all is there that an action asks for. Raises MissingInput, InvalidInput."""
    if action == Action.LINK and not given.number.strip():
        raise MissingInput("Say which payment or refund of ours it is.", param="number")
    if action == Action.SPLIT and len(given.parts) < 2:
        raise MissingInput("Say at least two parts.", param="parts")
    if given.account and given.account not in CORRECTED_AGAINST:
        raise InvalidInput(f"{given.account} is no account that a correction may be booked on.", param="account")
    if action == Action.ASSIGN and not given.owner.strip():
        raise MissingInput("Say to whom.", param="owner")
    if action == Action.IGNORE_UNTIL:
        if given.until is None:
            raise MissingInput("Say until when.", param="until")
        if given.until <= _today():
            raise InvalidInput("The date must lie ahead.", param="until")
        if given.until > _today() + timedelta(days=settings.RECONCILE_IGNORED_FOR_DAYS):
            raise InvalidInput(f"At most {settings.RECONCILE_IGNORED_FOR_DAYS} days ahead.", param="until")


def wake_ignored() -> int:
    """Open again what was ignored until a date that has come, whether or not a run sees it. Returns how many.

    Raises BooksBusy.
    """
    with one_writer(wait_s=WAIT_FOR_RUN_S):
        return findings.wake_ignored(by="calendar", now=database_now())


def _today() -> date:
    return database_now().date()


def _begin(
    pk: UUID, info: ActionInfo, *, key: str, by: str, note: str, given: ActionInput
) -> tuple[Discrepancy, DiscrepancyAction, bool]:
    """The item as it is now, the action's record, and whether it is ours to do; one that waits for a second person is nobody's
    for now. Judged and written down under the item's lock: of two people who saw it open, the second one sees what the first
    one did. Raises BooksBusy.
    """
    with one_writer(wait_s=WAIT_FOR_RUN_S):
        item = Discrepancy.objects.select_for_update().get(pk=pk)
        key = key or (f"{info.name}:{uuid7()}" if info.name in _REPEATABLE else f"{info.name}:{item.cycle}")
        known = DiscrepancyAction.objects.filter(discrepancy=item, key=key).exclude(outcome=Outcome.FAILED)
        known = known.exclude(outcome=Outcome.REJECTED)
        done = known.filter(outcome__in=[Outcome.OK, Outcome.WAITING]).first()
        if done:
            return item, done, False
        lease_until = in_seconds(settings.RECONCILE_ACTION_LEASE_S)
        # Its process died: the same press goes on where that one stopped, even if a run has closed the item meanwhile; another
        # one ends it.
        if known.filter(lease_until__lt=Now()).update(lease_until=lease_until):
            return item, known.get(), True
        if item.state == DiscrepancyState.RESOLVED:
            raise AlreadyResolved
        stake = _stake(item, info, given, by)
        if stake and offers.waiting_action(item):
            raise ApprovalPending
        inputs = {name: str(value) for name, value in asdict(given).items() if value not in ("", None, ())}
        columns = {"action": info.name, "key": key, "note": note, "by": by, "inputs": inputs, **stake}
        limit_minor = stake.get("approval_above_minor")
        if limit_minor is not None and stake["amount_minor"] > limit_minor:
            return item, _wait(item, **columns), True
        DiscrepancyAction.objects.filter(discrepancy=item, outcome=Outcome.STARTED, lease_until__lt=Now()).update(
            outcome=Outcome.FAILED, result="Its process was silent for too long.", finished_at=Now()
        )
        try:
            with transaction.atomic():
                record = DiscrepancyAction.objects.create(discrepancy=item, lease_until=lease_until, **columns)
        except IntegrityError as error:
            raise ActionInProgress from error
        return item, record, True


def _wait(item: Discrepancy, **columns: Any) -> DiscrepancyAction:
    """Write an action down, and nothing more: a second person decides. One that waited for an item as it was then ends."""
    limit = format_minor(columns["approval_above_minor"], columns["currency"]) if columns["currency"] else "nothing"
    text = f"It settles more than {limit}, which {columns['by']} may settle alone: a second person has to approve it."
    if item.state != DiscrepancyState.AWAITING_APPROVAL:
        DiscrepancyAction.objects.filter(discrepancy=item, outcome=Outcome.WAITING).update(
            outcome=Outcome.REJECTED, result="It was settled otherwise meanwhile.", finished_at=Now()
        )
    try:
        with transaction.atomic():
            record = DiscrepancyAction.objects.create(
                discrepancy=item, outcome=Outcome.WAITING, lease_until=Now(), result=text, **columns
            )
    except IntegrityError as error:
        raise ApprovalPending from error
    if item.state != DiscrepancyState.AWAITING_APPROVAL:
        cleared = {"ignored_until": None, "becomes_break_at": None}
        _move(item, DiscrepancyState.AWAITING_APPROVAL, record, values=cleared)
    return record


def _finish(
    item: Discrepancy, info: ActionInfo, record: DiscrepancyAction, given: ActionInput, done: str
) -> ActionResult:
    """Compare again where the action may have changed a side; move the discrepancy; complete the record. One commit."""
    compares = info.repairs or info.name == Action.REQUERY
    with one_writer(wait_s=WAIT_FOR_RUN_S):
        item = Discrepancy.objects.select_for_update().get(pk=item.pk)
        text = _compare_again(item, info, record, done) if compares else _decide(item, info, record, given, done)
        incidents.group(now=database_now(), fingerprints=[item.fingerprint])
        _close_record(record, Outcome.OK, text)
        item.refresh_from_db()
        if record.approved_by:
            to_be_looked_at(item, by=record.by, why=f"{record.action} was done, and the difference remains")
    item.refresh_from_db()
    return ActionResult(text, item.state, item.closed_as)


def _compare_again(item: Discrepancy, info: ActionInfo, record: DiscrepancyAction, done: str) -> str:
    now = _look(item, info, record)
    if matching.is_found(item.fingerprint):
        verdict = "The difference remains."
    elif not info.repairs and _is_silent(item):
        verdict = "Stripe's books cannot tell: it stays open."
    else:
        verdict = "Both sides agree now."
        if item.state != DiscrepancyState.RESOLVED:
            _resolve(item, ClosedAs.FIXED if info.repairs else ClosedAs.AUTO, record)
    findings.look_again(item.last_seen_run_id, by=record.by, now=now)
    if item.object_kind != "bank":  # its leg keeps its own
        matches.store(None, now=now)
    return f"{done} {verdict}"


def _look(item: Discrepancy, info: ActionInfo, record: DiscrepancyAction) -> datetime:
    """Compare both sides of an item anew; when. What differs is left to `findings`."""
    now = database_now()
    if item.object_kind == "statement":
        _prove_again(item, now=now)
    elif info.name == Action.LINK:
        books.recount_of(item.source)
        matching.match_objects(_looked_at(item, record), now=now)
    else:
        books.recount_of(item.source)
        compare(item, now=now, by=record.by)
    return now


def _looked_at(item: Discrepancy, record: DiscrepancyAction) -> list[tuple[str, str]]:
    """(object kind, source) of an item that was linked, and of those under which ours was missed."""
    objects = {(item.object_kind, item.source)}
    linked = DiscrepancyAction.objects.values_list("made", flat=True).get(pk=record.pk)
    ours = (
        Q(refund_id=parse_public_id("ref", linked))
        if linked.startswith("ref_")
        else Q(payment_id=parse_public_id("pay", linked), object_kind="charge")
    )
    others = Discrepancy.objects.filter(ours, state__in=UNRESOLVED_STATES)
    objects.update(others.values_list("object_kind", "source"))
    return sorted(objects)


def _prove_again(item: Discrepancy, *, now: datetime) -> None:
    """The statement of the day that last showed the residual."""
    matching.match_objects([], now=now)
    matching.add_residuals(books.statements(date.fromisoformat(item.evidence["day"])), now=now)


def _is_silent(item: Discrepancy) -> bool:
    """Whether that both books agree proves nothing about an item: news alone told of it, or a customer waits for money."""
    return item.kind in NOT_JUDGED_BY_RUNS or item.source.startswith("pi_") or BROKEN_PROMISE in item.evidence


def _decide(item: Discrepancy, info: ActionInfo, record: DiscrepancyAction, given: ActionInput, done: str) -> str:
    """Actions that change nothing but the discrepancy itself."""
    if item.state == DiscrepancyState.RESOLVED:
        raise AlreadyResolved
    _must_be_agreed(item, record)
    match info.name:
        case Action.CLAIM:
            return _investigate(item, record, owner=record.by)
        case Action.ASSIGN:
            return _investigate(item, record, owner=given.owner.strip())
        case Action.RELEASE:
            _move(item, DiscrepancyState.OPEN, record, values={"owner": ""})
            return "Nobody works on it any more."
        case Action.IGNORE_UNTIL:
            _move(item, DiscrepancyState.IGNORED, record, values={"ignored_until": given.until})
            return f"Ignored until {given.until}."
        case name if name in _CLOSES:
            _resolve(item, ClosedAs.ACCEPTED, record)
            return f"{done} The difference is accepted.".strip()
    raise AssertionError(f"{info.name} is offered, and nobody knows how to do it")


def _investigate(item: Discrepancy, record: DiscrepancyAction, *, owner: str) -> str:
    if item.state == DiscrepancyState.INVESTIGATING:
        Discrepancy.objects.filter(pk=item.pk).update(owner=owner)
    else:
        _move(
            item,
            DiscrepancyState.INVESTIGATING,
            record,
            values={"owner": owner, "ignored_until": None, "becomes_break_at": None},
        )
    return f"{owner} works on it."


def _resolve(item: Discrepancy, closed_as: str, record: DiscrepancyAction) -> None:
    values: dict[str, object] = {
        "closed_as": closed_as,
        "resolved_at": Now(),
        "resolved_by": record.by,
        "ignored_until": None,
        "becomes_break_at": None,
    }
    if closed_as == ClosedAs.AUTO:
        values["verified_at"] = Now()
    if BROKEN_PROMISE in item.evidence:
        values["evidence"] = {name: value for name, value in item.evidence.items() if name != BROKEN_PROMISE}
    _move(item, DiscrepancyState.RESOLVED, record, values=values)


def _move(item: Discrepancy, to: str, record: DiscrepancyAction, *, values: Mapping[str, object]) -> None:
    transition(
        item,
        to,
        edges=DISCREPANCY_EDGES,
        history=DiscrepancyHistory,
        by=record.by,
        why=f"{record.action}: {record.note}",
        field="state",
        values=values,
    )


def _close_record(record: DiscrepancyAction, outcome: str, result: str) -> None:
    DiscrepancyAction.objects.filter(pk=record.pk, outcome=Outcome.STARTED).update(
        outcome=outcome, result=result, finished_at=Now()
    )
