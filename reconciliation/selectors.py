"""What dashboards, metrics, pages and commands read about reconciliation."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import User
from django.db.models import Case, CharField, Count, Q, Sum, Value, When
from django.db.models.functions import Abs, Coalesce, Now, NullIf

from foundation.database import database_now
from foundation.errors import NotFound
from foundation.money import format_minor
from orders import selectors as orders
from orders.types import OrderView
from payments import selectors as payments
from payments.types import PaymentView, RefundView
from reconciliation import books, offers, vouchers
from reconciliation.models import (
    BulkAction,
    ChangedDay,
    Discrepancy,
    DiscrepancyAction,
    DiscrepancyHistory,
    Incident,
    Link,
    Match,
    Period,
    PeriodClosing,
    PeriodReopening,
    ProviderTransaction,
    ReconciliationRun,
)
from reconciliation.states import (
    OPEN_STATES,
    UNSETTLED_STATES,
    BulkItemState,
    BulkState,
    DiscrepancyState,
    Outcome,
    PeriodState,
    RunState,
)
from reconciliation.types import (
    AGE_BUCKETS,
    HINTS,
    KINDS,
    ActionInfo,
    BulkPage,
    Candidate,
    Cause,
    IncidentPage,
    KindBacklog,
    KindInfo,
    Pile,
    Proved,
    Statement,
    info_of,
    info_of_action,
)

_VOUCHERS_SHOWN = 20
# What an item weighs (`Discrepancy.value_minor`): of a payout that was taken from our bank both amounts are below 0.
_VALUE = Coalesce(Abs("difference_minor"), Abs("theirs_amount_minor"), Abs("ours_amount_minor"), 0)


def days_without_a_run() -> list[date]:
    """Finished days, oldest first, that no completed run covers, from the first day of the books on; of a long history, the last
    RECONCILE_HISTORY_DAYS."""
    first = books.first_day()
    if first is None:
        return []
    today = database_now().date()
    begin = max(first, today - timedelta(days=settings.RECONCILE_HISTORY_DAYS))
    candidates = [begin + timedelta(days=offset) for offset in range((today - begin).days)]
    runs = ReconciliationRun.objects.filter(date__gte=begin, state=RunState.COMPLETED, provisional=False)
    done = set(runs.values_list("date", flat=True).distinct())
    return [day for day in candidates if day not in done]


def days_changed() -> list[date]:
    """Days, oldest first, of which a row or a movement of ours came or changed after the last completed run had looked at them."""
    changed = {*ChangedDay.objects.values_list("day", flat=True).distinct(), *payments.days_changed_late()}
    if not changed:
        return []
    begin = books.first_day() or date.min
    runs = ReconciliationRun.objects.filter(date__in=changed, state=RunState.COMPLETED, provisional=False)
    return sorted(day for day in set(runs.values_list("date", flat=True)) if day >= begin)


def days_with_a_residual(*, after: date, before: date) -> list[date]:
    """Days between two, oldest first, whose last completed run left something unexplained."""
    runs = ReconciliationRun.objects.filter(
        state=RunState.COMPLETED, provisional=False, date__gt=after, date__lt=before
    )
    newest = runs.order_by("date", "-id").distinct("date").values_list("date", "residual")
    return [day for day, residual in newest if any(residual.values())]


def days_with_ripe_timing() -> list[date]:
    """Days on which something still counts as timing whose time is up: a run closes it, or makes it a break."""
    ripe = Discrepancy.objects.filter(state=DiscrepancyState.TIMING, becomes_break_at__lte=database_now())
    return list(ripe.order_by("business_date").values_list("business_date", flat=True).distinct())


def last_reconciled_on() -> date | None:
    """The newest day with a completed run; an unfinished day's provisional run does not count. None: there was none."""
    runs = ReconciliationRun.objects.filter(state=RunState.COMPLETED, provisional=False)
    return runs.order_by("-date").values_list("date", flat=True).first()


def residuals() -> dict[str, int]:
    """Currency → Σ |minor units that nothing accounts for| over the newest completed run of each of the last days."""
    since = database_now().date() - timedelta(days=settings.RECONCILE_RESIDUAL_DAYS)
    newest = (
        ReconciliationRun.objects.filter(state=RunState.COMPLETED, provisional=False, date__gte=since)
        .order_by("date", "-id")
        .distinct("date")
        .values_list("residual", flat=True)
    )
    totals: dict[str, int] = {}
    for residual in newest:
        for currency, minor in residual.items():
            totals[currency] = totals.get(currency, 0) + abs(minor)
    return totals


def proofs_not_made() -> dict[str, int]:
    """Proof → in how many currencies the newest reconciled day could not be held against it; empty before there was one."""
    runs = ReconciliationRun.objects.filter(state=RunState.COMPLETED, provisional=False)
    stored = runs.order_by("-date", "-id").values_list("statement", flat=True).first()
    if stored is None:
        return {}
    proofs = [proof for statement in stored.values() for proof in statement["proofs"]]
    counts = Counter(proof["name"] for proof in proofs if proof["residual_minor"] is None)
    return {name: counts[name] for name in (Proved.BALANCE, Proved.CLEARING, Proved.PAYOUTS)}


def last_runs(count: int = 10) -> Sequence[ReconciliationRun]:
    """The newest runs, whatever became of them."""
    return list(ReconciliationRun.objects.order_by("-id")[:count])


def open_counts() -> dict[str, int]:
    """kind → how many discrepancies somebody has to look at; every kind is there, so that a gauge falls back to 0."""
    rows = Discrepancy.objects.filter(state__in=OPEN_STATES).values_list("kind").annotate(Count("pk"))
    return dict.fromkeys(KINDS, 0) | dict(rows)


def open_incident_counts() -> dict[str, int]:
    """cause → how many incidents are open; every cause is there, so that a gauge falls back to 0."""
    rows = Incident.objects.filter(closed_at=None).values_list("cause").annotate(Count("pk"))
    return dict.fromkeys((Cause.WEBHOOK_GAP, Cause.SAME_KIND), 0) | dict(rows)


def open_between(first: date, last: date) -> int:
    """How many open discrepancies (timing does not count) belong to some days, both included."""
    return Discrepancy.objects.filter(state__in=OPEN_STATES, business_date__range=(first, last)).count()


def open_by_kind() -> list[KindBacklog]:
    """Open discrepancies by kind, the heaviest kinds first, with their value and age. One query.

    Where no difference can be told (the currencies differ), an item counts with the provider's amount.
    """
    today = database_now().date()
    bucket = Case(
        *(When(business_date__gte=today - timedelta(days=days), then=Value(name)) for days, name in AGE_BUCKETS[:-1]),
        default=Value(AGE_BUCKETS[-1][1]),
        output_field=CharField(),
    )
    rows = (
        Discrepancy.objects.filter(state__in=OPEN_STATES)
        .values_list("kind", bucket, Coalesce(NullIf("theirs_currency", Value("")), "ours_currency"))
        .annotate(count=Count("pk"), value=Sum(_VALUE))
        .order_by()
    )
    found: dict[str, KindBacklog] = {}
    for kind, age, currency, count, value_minor in rows:
        ageing = {name: Pile() for _, name in AGE_BUCKETS}
        backlog = found.setdefault(kind, KindBacklog(kind, KINDS[kind], Pile(), ageing))
        backlog.total.add(count, currency, value_minor)
        backlog.ageing[age].add(count, currency, value_minor)
    return [found[kind] for kind in KINDS if kind in found]


@dataclass(frozen=True, slots=True)
class DiscrepancyPage:
    """All that a discrepancy's page shows."""

    item: Discrepancy
    info: KindInfo
    age_days: int
    order: OrderView | None
    payment: PaymentView | None
    refund: RefundView | None
    transactions: Sequence[ProviderTransaction]  # the provider's rows of this object, oldest first
    told: Mapping[str, Mapping[str, Any]]  # what it said of the first ones, in its own words
    history: Sequence[DiscrepancyHistory]
    actions: Sequence[DiscrepancyAction]  # what people did, oldest first
    offered: Sequence[ActionInfo]  # what can be done now
    proposals: Sequence[Candidate]  # what it may be on the other side, best first
    match: Match | None  # where both sides agree now: why
    # Where nothing says to which order a charge belongs: those that asked for just that amount not long before.
    candidates: Sequence[OrderView] = ()


def discrepancy_page(discrepancy_id: UUID) -> DiscrepancyPage:
    """Raises NotFound."""
    item = Discrepancy.objects.select_related("first_seen_run", "last_seen_run").filter(pk=discrepancy_id).first()
    if item is None:
        raise NotFound
    order = _order(item.order_reference)
    transactions = list(
        ProviderTransaction.objects.filter(pk__in=item.evidence.get("transactions", [])).order_by("created_at")
    )
    return DiscrepancyPage(
        item=item,
        info=info_of(item.kind, item.object_kind),
        age_days=(database_now().date() - item.business_date).days,
        order=order,
        candidates=offers.candidate_orders(item) if order is None else (),
        payment=payments.get_payment(item.payment_number) if item.payment_id else None,
        refund=payments.get_refund(item.refund_number) if item.refund_id else None,
        transactions=transactions,
        told=vouchers.told_of(transactions[:_VOUCHERS_SHOWN]),
        history=list(item.history.order_by("id")),
        actions=list(item.actions.order_by("id")),
        offered=offers.offered_actions(item),
        proposals=offers.candidates_of(item),
        match=Match.objects.filter(pk=f"{item.object_kind}:{item.source}").first(),
    )


def linked_by(match: Match) -> Link | None:
    """Who said that they are one, where somebody did and nobody has taken it back."""
    return Link.objects.filter(object_kind=match.object_kind, source=match.source, ended_at__isnull=True).first()


# --- Many at once -----------------------------------------------------------------------------------


def bulk_page(bulk: BulkAction, *, by: str) -> BulkPage:
    """How a bulk action stands; of a preview also which rows `by` could only ask for. One query over its rows, three more for that."""
    piles: dict[str, Pile] = {}
    reasons: Counter[str] = Counter()
    for state, currency, value_minor, result in bulk.rows.values_list("state", "currency", "value_minor", "result"):
        piles.setdefault(state, Pile()).add(1, currency, value_minor)
        if state in (BulkItemState.REFUSED, BulkItemState.FAILED):
            reasons[result] += 1
    limits, above_limit = _above_limit(bulk, by) if bulk.state == BulkState.PLANNED else ({}, Pile())
    return BulkPage(piles, dict(reasons.most_common()), limits, above_limit)


def _above_limit(bulk: BulkAction, by: str) -> tuple[dict[int, int], Pile]:
    """Rows that `by` may not settle alone, with what `by` may. By the items as they are now: what counts is what they are when
    it is done."""
    limits = _limits_of(by)
    found: dict[int, int] = {}
    pile = Pile()
    if limits is None or not info_of_action(bulk.action).settles:
        return found, pile
    for row in bulk.rows.filter(state=BulkItemState.PLANNED).select_related("discrepancy"):
        limit_minor = limits.get(row.discrepancy.currency, 0)
        if row.discrepancy.stake_minor > limit_minor:
            found[row.pk] = limit_minor
            pile.add(1, row.currency, row.value_minor)
    return found, pile


# --- What belongs together --------------------------------------------------------------------------


def incident_page(incident: Incident) -> IncidentPage:
    """What an incident's page shows beside its row. Four queries, however many items it has."""
    items = Discrepancy.objects.filter(incident=incident)
    rows = (
        items.values_list("kind", Coalesce(NullIf("theirs_currency", Value("")), "ours_currency"))
        .annotate(count=Count("pk"), value=Sum(_VALUE))
        .order_by()
    )
    kinds: dict[str, Pile] = {}
    for kind, currency, count, value_minor in rows:
        kinds.setdefault(kind, Pile()).add(count, currency, value_minor)
    kinds = {kind: kinds[kind] for kind in KINDS if kind in kinds}
    reach = items.aggregate(
        merchants=Count("merchant_id", distinct=True), orders=Count(NullIf("order_reference", Value("")), distinct=True)
    )
    return IncidentPage(
        hint=hint(incident, {kind: pile.count for kind, pile in kinds.items()}),
        kinds=kinds,
        states=dict(items.values_list("state").annotate(Count("pk")).order_by()),
        merchants=reach["merchants"],
        orders=reach["orders"],
        news_meanwhile=payments.news_between(incident.first_at, incident.last_at),
    )


def hint(incident: Incident, kinds: dict[str, int]) -> str:
    """What probably lies behind an incident, in a sentence or two."""
    if incident.cause == Cause.SAME_KIND:
        return HINTS[incident.kind]
    since, until = incident.gap_since, incident.gap_until
    assert since
    if until is None:
        silence = f"No webhook has arrived since {since:%d %b %H:%M} UTC"
    else:
        end = f"{until:%H:%M}" if until.date() == since.date() else f"{until:%d %b %H:%M}"
        silence = f"No webhook arrived between {since:%d %b %H:%M} and {end} UTC"
    what = [f"{count} × {KINDS[kind].label.lower()}" for kind, count in kinds.items()]
    return (
        f"{silence}; of that time: {', '.join(what)}. Look whether the endpoint was down, or its secret was changed; "
        "then replay the events of all items."
    )


def discrepancies_of(order_number: str) -> list[Discrepancy]:
    """What was ever found about an order, newest first."""
    return list(Discrepancy.objects.filter(order_reference=order_number).order_by("-id"))


# --- Who may settle what alone ------------------------------------------------------------------------


def settles_alone_minor(by: str, currency: str) -> int | None:
    """What a person may settle without a second one, in minor units of a currency: the most that one of their roles may.
    0 for a currency without a limit, for staff without a role that has one, and for whoever is no login: there everything waits.

    None, no limit, for the jobs that JOBS_THAT_SETTLE names. Superusers are bound as the role that may most.
    """
    limits = _limits_of(by)
    return None if limits is None else limits.get(currency, 0)


def _limits_of(by: str) -> dict[str, int] | None:
    """Currency → the most that one of a person's roles may settle alone. Two queries."""
    user = User.objects.filter(username=by).first()
    if user is None:
        return None if by in settings.JOBS_THAT_SETTLE else {}
    of_roles: Mapping[str, Mapping[str, int]] = settings.SETTLE_ALONE_MINOR
    roles = of_roles if user.is_superuser else set(user.groups.values_list("name", flat=True))
    limits: dict[str, int] = {}
    for role in roles:
        for currency, minor in of_roles.get(role, {}).items():
            limits[currency] = max(minor, limits.get(currency, 0))
    return limits


# --- Periods ------------------------------------------------------------------------------------------


def month_of(day: date) -> date:
    """A month is named by its first day."""
    return day.replace(day=1)


def month_after(month: date) -> date:
    return month_of(month + timedelta(days=31))


def month_before(month: date) -> date:
    return month_of(month - timedelta(days=1))


def closing_of(month: date) -> PeriodClosing | None:
    """The newest closing of a month, whether or not the month was reopened since."""
    return PeriodClosing.objects.filter(period=month).order_by("-number").first()


def obstacles(
    period: Period, *, carry_open: bool = False, without_balance: bool = False, without_payouts: bool = False
) -> list[str]:
    """What stands in the way of closing a month; empty where nothing does. `carry_open`: open items may go on.
    `without_balance`: the provider was not asked what it holds, its books came as files alone. `without_payouts`: nor what its
    payouts are made of.
    """
    if database_now().date() <= period.last_day:
        return [f"it ends on {period.last_day:%d %b %Y}"]
    begin = books.first_day()
    if begin is None or begin > period.last_day:
        return ["the books begin later"]
    earlier = Period.objects.filter(starts_on__lt=period.starts_on).exclude(state=PeriodState.CLOSED)
    found = [
        f"{one.name} is open, and comes first"
        if one.state == PeriodState.OPEN
        else f"somebody asks for {one.name} to be reopened: approve or refuse that first"
        for one in earlier.order_by("starts_on")
    ]
    to_reconcile = _days_to_reconcile(max(begin, period.starts_on), period.last_day)
    found += to_reconcile
    waits = Q(outcome=Outcome.WAITING, discrepancy__state=DiscrepancyState.AWAITING_APPROVAL)
    is_begun = Q(outcome=Outcome.STARTED, lease_until__gt=Now())
    waiting = DiscrepancyAction.objects.filter(waits | is_begun, discrepancy__period=period.pk).count()
    if waiting:
        found.append(f"actions that are under way, or wait for a second person: {waiting}")
    items = Discrepancy.objects.filter(period=period.pk, state__in=UNSETTLED_STATES)
    states = Counter(items.values_list("state", flat=True))
    if states and not carry_open:
        ignored = f", {states[DiscrepancyState.IGNORED]} of them ignored" if states[DiscrepancyState.IGNORED] else ""
        found.append(f"open items: {states.total()}{ignored} (settle them, or carry them over to the next month)")
    statements = books.statements(period.last_day, payouts_since=period.starts_on)
    if not to_reconcile:  # else that is why
        waived = {Proved.BALANCE: without_balance, Proved.PAYOUTS: without_payouts}
        found += _proofs_to_make(statements, [name for name, is_waived in waived.items() if is_waived])
    found += [
        f"the statement of {one.day:%d %b %Y} leaves {format_minor(one.residual_minor, one.currency)} unexplained"
        for one in statements
        if one.residual_minor
    ]
    return found


_PROOFS_TO_MAKE = {
    Proved.BALANCE: (
        "Stripe's balance",
        "reconcile that day again, or close without a balance if Stripe's books come as files",
    ),
    Proved.CLEARING: ("our clearing account", "read and reconcile what is missing"),
    Proved.PAYOUTS: (
        "what its payouts collected",
        "ask Stripe for them again, or close without payouts if Stripe's books come as files",
    ),
}


def _proofs_to_make(statements: Sequence[Statement], waived: Collection[str]) -> list[str]:
    """Proofs that could not be made: that nothing is known to be off is not that all is right."""
    found: dict[str, list[str]] = {}
    for one in statements:
        for proof in one.proofs:
            if proof.is_made or proof.name in waived:
                continue
            held, todo = _PROOFS_TO_MAKE[proof.name]
            why = f"the statement of {one.day:%d %b %Y} was not held against {held}: {proof.note} ({todo})"
            found.setdefault(why, []).append(one.currency.upper())
    return [f"{', '.join(currencies)}: {why}" for why, currencies in found.items()]


def _days_to_reconcile(first: date, last: date) -> list[str]:
    runs = ReconciliationRun.objects.filter(date__range=(first, last))
    completed = runs.filter(state=RunState.COMPLETED, provisional=False)
    done = set(completed.values_list("date", flat=True).distinct())
    days = [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
    missing = [day for day in days if day not in done]
    found = (
        [f"days that are not reconciled: {len(missing)}, {missing[0]:%d %b %Y} the first of them"] if missing else []
    )
    changed = [day for day in days_changed() if first <= day <= last]
    if changed:
        found.append(
            f"days that changed since they were reconciled: {len(changed)}, {changed[0]:%d %b %Y} the first of them"
        )
    if runs.filter(state=RunState.RUNNING, lease_until__gt=Now()).exists():
        found.append("one of its days is being reconciled")
    return found


@dataclass(frozen=True, slots=True)
class PeriodPage:
    """All that a month's page shows."""

    period: Period
    obstacles: Sequence[str]  # of an open month
    closings: Sequence[PeriodClosing]  # the newest first
    question: PeriodReopening | None  # that waits for a second person


def period_page(period: Period) -> PeriodPage:
    return PeriodPage(
        period=period,
        obstacles=obstacles(period) if period.state == PeriodState.OPEN else [],
        closings=list(PeriodClosing.objects.filter(period=period).order_by("-number")),
        question=PeriodReopening.objects.filter(closing__period=period, decision="").first(),
    )


def _order(reference: str) -> OrderView | None:
    """The provider's metadata may name anything."""
    try:
        return orders.get_order(reference) if reference else None
    except NotFound:
        return None
