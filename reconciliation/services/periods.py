"""Months of the books: what stands in the way of closing one, closing it, and reopening it by two people.

A closing writes down what the month held: its statement, its items, our own trial balance, and up to where it has seen the
audit chain. What comes later about the month falls into the next open one: rows of the provider's as late lines of that
month's statement, items by a trigger. Entries are dated by PostgreSQL, never before the last cut of the books; a month closes
behind such a cut.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import date, datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import Count, F
from django.db.models.functions import Now

from foundation.database import database_now
from foundation.errors import NotFound
from foundation.transition import transition
from payments import selectors as payments
from payments import services as payments_services
from payments.errors import SecondPersonNeeded
from reconciliation import books, matching, selectors
from reconciliation.errors import NoteMissing, NothingToApprove, PeriodIsClosed, PeriodIsOpen, PeriodNotReady
from reconciliation.locks import one_writer
from reconciliation.models import Discrepancy, Period, PeriodClosing, PeriodHistory, PeriodReopening
from reconciliation.services import chain
from reconciliation.states import PERIOD_EDGES, UNRESOLVED_STATES, Decision, PeriodState
from reconciliation.types import Audited, PeriodStatement, Proved, Statement, StatementLine

_WAIT_S = 60  # for a run that stores its results
_SHOWN = 1_000  # items that a difference report names


def open_periods() -> None:
    """A row for each month since the books began, this one included. Repeated, it changes nothing."""
    begin = books.first_day()
    if begin is None:
        return
    this = selectors.month_of(database_now().date())
    months = [selectors.month_of(begin)]
    while months[-1] < this:
        months.append(selectors.month_after(months[-1]))
    Period.objects.bulk_create([Period(starts_on=month) for month in months], ignore_conflicts=True)


def close_period(
    *,
    period: date,
    by: str,
    note: str,
    carry_open: bool = False,
    without_balance: bool = False,
    without_payouts: bool = False,
) -> PeriodClosing:
    """Close a month, named by its first day. `carry_open`: what is open goes to the next month instead of standing in the way.
    `without_balance`: the provider's books came as files, and nobody could ask it what it holds; `without_payouts`: nor what its
    payouts are made of. The closing's note says so.

    Belongs outside of transactions. Raises NoteMissing, NotFound, PeriodIsClosed, PeriodNotReady (its member `obstacles`
    lists what stands in the way), BooksNotSettled (a transaction under way may still post into it), BooksBusy.
    """
    if not note.strip():
        raise NoteMissing(param="note")
    open_periods()
    options = {"carry_open": carry_open, "without_balance": without_balance, "without_payouts": without_payouts}
    _refuse(_the_open(period, locked=False), options)
    end = matching.window(selectors.month_after(period))[0]
    sealed_through = payments_services.seal_books(through=end)
    chain.extend_chain()  # most of it, before anybody has to wait for us
    with one_writer(wait_s=_WAIT_S):
        row = _the_open(period, locked=True)
        _refuse(row, options)
        chain.extend()
        closing = _write_down(row, by=by, note=note.strip(), sealed_through=sealed_through, end=end)
        _move(row, PeriodState.CLOSED, by=by, why=note.strip(), values={"closings": closing.number})
        _find_their_month(period)
    chain.extend_chain()  # the closing itself
    closing.refresh_from_db()
    return closing


def _the_open(period: date, *, locked: bool) -> Period:
    rows = Period.objects.select_for_update() if locked else Period.objects
    row = rows.filter(pk=period).first()
    if row is None:
        raise NotFound(f"The books know no month {period:%Y-%m}.")
    if row.state != PeriodState.OPEN:
        raise PeriodIsClosed(f"{row.name} is closed already.")
    return row


def _refuse(row: Period, options: Mapping[str, bool]) -> None:
    obstacles = selectors.obstacles(row, **options)
    if obstacles:
        raise PeriodNotReady(f"{row.name} cannot be closed: {'; '.join(obstacles)}.", members={"obstacles": obstacles})


def _move(row: Period, to: str, *, by: str, why: str, values: Mapping[str, Any] | None = None) -> None:
    transition(row, to, edges=PERIOD_EDGES, history=PeriodHistory, by=by, why=why, field="state", values=values)


def _find_their_month(period: date) -> None:
    """The trigger gives each item that is not settled the month which answers for it now."""
    Discrepancy.objects.filter(period=period, state__in=UNRESOLVED_STATES).update(period=F("period"))


# --- What a month held --------------------------------------------------------------------------------


def _write_down(row: Period, *, by: str, note: str, sealed_through: datetime, end: datetime) -> PeriodClosing:
    before = selectors.closing_of(selectors.month_before(row.starts_on))
    previous = selectors.closing_of(row.starts_on)
    after, head = before.head if before else 0, chain.last_block()
    begin = books.first_day() or row.starts_on
    statements = _statements(row.starts_on, before, begin=begin, head=head)
    _agree(statements, books.statements(row.last_day, payouts_since=row.starts_on))
    stored = {currency: asdict(one) for currency, one in statements.items()}
    note += _without(statements)
    return PeriodClosing.objects.create(
        period=row,
        number=row.closings + 1,
        closed_by=by,
        note=note,
        books_begin=begin,
        sealed_through=sealed_through,
        after=after,
        head=head,
        statements=stored,
        items=_items(row.starts_on),
        trial_balance=[asdict(one) for one in payments.trial_balance(at=end)],
        differences=differences(previous, stored, head=head) if previous else None,
    )


def _without(statements: Mapping[str, PeriodStatement]) -> str:
    """The proofs that nobody could make, as a closing's note tells them."""
    told = ""
    for name, words in ((Proved.BALANCE, "Stripe's balance"), (Proved.PAYOUTS, "what payouts collected")):
        unproved = [
            currency
            for currency, one in statements.items()
            if any(proof.name == name and not proof.is_made for proof in one.proofs)
        ]
        told += f" (without {words} in {', '.join(unproved).upper()})" if unproved else ""
    return told


# What the chained rows of the provider's moved, each less what was known of it before; late ones are of earlier months.
_MOVED = """
SELECT late, currency, category, sum(rows)::bigint, sum(gross)::bigint, sum(fee)::bigint, sum(net)::bigint
FROM (
    SELECT b.period < %(period)s AS late, v.now ->> 'currency' AS currency, v.now ->> 'category' AS category,
           v.sign * (CASE WHEN (v.now ->> 'withdrawn')::boolean THEN 0 ELSE 1 END) AS rows,
           v.sign * (v.now ->> 'gross')::bigint AS gross, v.sign * (v.now ->> 'fee')::bigint AS fee,
           v.sign * (v.now ->> 'net')::bigint AS net
    FROM reconciliation_auditblock b
    JOIN reconciliation_auditrow r ON r.block_id = b.number
    CROSS JOIN LATERAL (
        SELECT r.body::jsonb AS now, 1 AS sign
        UNION ALL SELECT r.body::jsonb -> 'was', -1 WHERE jsonb_typeof(r.body::jsonb -> 'was') = 'object'
    ) v
    WHERE b.kind = %(kind)s AND b.number <= %(head)s
      AND (b.period = %(period)s OR b.period < %(period)s AND b.number > %(after)s)
      AND (r.body::jsonb ->> 'day')::date >= %(begin)s
) moved
GROUP BY late, currency, category
HAVING sum(rows) <> 0 OR sum(gross) <> 0 OR sum(fee) <> 0 OR sum(net) <> 0
ORDER BY late, currency, category
"""


def _statements(period: date, before: PeriodClosing | None, *, begin: date, head: int) -> dict[str, PeriodStatement]:
    """The month from what the chain says of the provider's rows, on top of how the month before was closed."""
    started = books.start()
    opening: dict[str, int] = dict(started.balances) if started else {}
    if before:
        opening = {currency: one["closing_minor"] for currency, one in before.statements.items()}
    after = before.head if before else 0
    parameters: dict[str, Any] = {"kind": Audited.RAW, "period": period, "begin": begin, "head": head, "after": after}
    lines: dict[tuple[bool, str], list[StatementLine]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_MOVED, parameters)
        for late, currency, *sums in cursor.fetchall():
            lines.setdefault((late, currency), []).append(StatementLine(*sums))
    found = {}
    for currency in sorted({*opening, *(currency for _, currency in lines)}):
        late, own = lines.get((True, currency), []), lines.get((False, currency), [])
        opening_minor = opening.get(currency, 0)
        closing_minor = opening_minor + sum(line.net_minor for line in (*late, *own))
        found[currency] = PeriodStatement(opening_minor, tuple(late), tuple(own), closing_minor)
    return found


def _agree(statements: dict[str, PeriodStatement], days: Iterable[Statement]) -> None:
    """The chained rows lead to the balance that the statement of the month's last day proved; its proofs are the month's."""
    for day in days:
        one = statements.get(day.currency, PeriodStatement(0, (), (), 0))
        if one.closing_minor != day.closing_minor:
            raise PeriodNotReady(
                f"The rows of {day.day} are being read at this moment, or were read again without a run since: in"
                f" {day.currency} they lead to {one.closing_minor}, and the statement says {day.closing_minor} (minor units)."
                " Reconcile that day again."
            )
        statements[day.currency] = PeriodStatement(
            one.opening_minor, one.late, one.lines, one.closing_minor, day.proofs
        )


def _items(period: date) -> dict[str, Any]:
    """How many items the month had, by state and kind; how many came late; how many go on to the next month."""
    items = Discrepancy.objects.filter(period=period).order_by()
    states = dict(items.values_list("state").annotate(Count("pk")))
    return {
        "states": states,
        "kinds": dict(items.values_list("kind").annotate(Count("pk"))),
        "late": items.filter(business_date__lt=period).count(),
        "carried": sum(count for state, count in states.items() if state in UNRESOLVED_STATES),
    }


# --- What changed since the closing before -------------------------------------------------------------

_CHANGED_ITEMS = """
SELECT item.now ->> 'item', item.now ->> 'kind', before.body ->> 'state', item.now ->> 'state', before.body ->> 'difference_minor',
       item.now ->> 'difference_minor', item.now ->> 'theirs_currency'
FROM (
    SELECT DISTINCT ON (r.object) r.object, r.body::jsonb AS now FROM reconciliation_auditblock b
    JOIN reconciliation_auditrow r ON r.block_id = b.number
    WHERE b.kind = %(kind)s AND b.period <= %(period)s AND b.number > %(since)s AND b.number <= %(head)s
    ORDER BY r.object, r.block_id DESC
) item
LEFT JOIN LATERAL (
    SELECT r.body::jsonb AS body FROM reconciliation_auditrow r
    WHERE r.object = item.object AND r.block_id <= %(since)s ORDER BY r.block_id DESC LIMIT 1
) before ON true
ORDER BY 1
"""
_CHANGED_ROWS = """
SELECT count(*) FILTER (WHERE r.body::jsonb -> 'was' = 'null'), count(*) FILTER (WHERE r.body::jsonb -> 'was' <> 'null')
FROM reconciliation_auditblock b JOIN reconciliation_auditrow r ON r.block_id = b.number
WHERE b.kind = %(kind)s AND b.period <= %(period)s AND b.number > %(since)s AND b.number <= %(head)s
"""


def differences(previous: PeriodClosing, statements: Mapping[str, Any], *, head: int) -> dict[str, Any]:
    """What changed between a closing and the one that is being made: lines of the statement before and after, the
    provider's rows that came or changed, items with their state before and after, and who reopened the month, and why.
    """
    reopening = PeriodReopening.objects.filter(closing=previous, decision=Decision.APPROVED).first()
    seen: dict[str, Any] = {"period": previous.period_id, "since": previous.head, "head": head}
    with connection.cursor() as cursor:
        cursor.execute(_CHANGED_ROWS, seen | {"kind": Audited.RAW})
        added, changed = cursor.fetchone()
        cursor.execute(_CHANGED_ITEMS, seen | {"kind": Audited.ITEM})
        names = ("item", "kind", "state_before", "state", "difference_before", "difference", "currency")
        items = [dict(zip(names, found, strict=True)) for found in cursor.fetchall()]
    return {
        "since": previous.number,
        "reopened": reopening
        and {
            "asked_by": reopening.asked_by,
            "why": reopening.why,
            "approved_by": reopening.decided_by,
            "approved_why": reopening.decided_why,
        },
        "statement": _changed_lines(previous.statements, statements),
        "rows": {"added": added, "changed": changed},
        "items": items[:_SHOWN],
        "item_count": len(items),
    }


def _changed_lines(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """By currency and line what it said, and says, in net minor units; lines that say the same are left out."""
    told = [_told(statements) for statements in (before, after)]
    return [
        {"currency": key[0], "line": key[1], "before_minor": told[0].get(key, 0), "after_minor": told[1].get(key, 0)}
        for key in sorted({*told[0], *told[1]})
        if told[0].get(key, 0) != told[1].get(key, 0)
    ]


def _told(statements: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    told = {}
    for currency, one in statements.items():
        told[currency, "opening"], told[currency, "closing"] = one["opening_minor"], one["closing_minor"]
        for prefix, lines in (("late ", one["late"]), ("", one["lines"])):
            for line in lines:
                told[currency, prefix + line["category"]] = line["net_minor"]
    return told


# --- Reopening ------------------------------------------------------------------------------------------


def ask_reopening(*, period: date, by: str, why: str) -> None:
    """The first of two people: say why a closed month has to be opened again. Belongs outside of transactions.

    Raises NoteMissing, NotFound, PeriodIsOpen, PeriodNotReady (a later month is closed), IllegalTransition.
    """
    _needs(why)
    with transaction.atomic(durable=True):
        row = _the_closed(period)
        _is_the_last(row)
        _move(row, PeriodState.REOPENING, by=by, why=why.strip())
        closing = PeriodClosing.objects.filter(period=row).latest("number")
        PeriodReopening.objects.create(closing=closing, asked_by=by, why=why.strip())


def approve_reopening(*, period: date, by: str, why: str) -> None:
    """The second person says yes: the month is open, and what is not settled of it comes back to it. Outside of transactions.

    Raises NoteMissing, NotFound, PeriodIsOpen, NothingToApprove, SecondPersonNeeded, PeriodNotReady (a later month is closed),
    BooksBusy.
    """
    _needs(why)
    with one_writer(wait_s=_WAIT_S):
        row, question = _the_question(period)
        if question.asked_by == by:
            raise SecondPersonNeeded
        _is_the_last(row)
        _decide(question, Decision.APPROVED, by=by, why=why)
        _move(row, PeriodState.OPEN, by=by, why=why.strip())
        _find_their_month(selectors.month_after(period))


def refuse_reopening(*, period: date, by: str, why: str) -> None:
    """The month stays closed: somebody says no, or who asked takes it back. Outside of transactions.

    Raises NoteMissing, NotFound, PeriodIsOpen, NothingToApprove.
    """
    _needs(why)
    with transaction.atomic(durable=True):
        row, question = _the_question(period)
        _decide(question, Decision.REFUSED, by=by, why=why)
        _move(row, PeriodState.CLOSED, by=by, why=why.strip())


def _needs(why: str) -> None:
    if not why.strip():
        raise NoteMissing(param="note")


def _the_closed(period: date) -> Period:
    row = Period.objects.select_for_update().filter(pk=period).first()
    if row is None:
        raise NotFound(f"The books know no month {period:%Y-%m}.")
    if row.state == PeriodState.OPEN:
        raise PeriodIsOpen
    return row


def _is_the_last(row: Period) -> None:
    later = Period.objects.filter(starts_on__gt=row.starts_on).exclude(state=PeriodState.OPEN)
    last = later.order_by("-starts_on").first()
    if last:
        raise PeriodNotReady(
            f"{last.name} is closed, and begins with what {row.name} ended with: reopen that one first."
        )


def _the_question(period: date) -> tuple[Period, PeriodReopening]:
    row = _the_closed(period)
    question = PeriodReopening.objects.filter(closing__period=row, decision="").first()
    if question is None:
        raise NothingToApprove("Nobody asks for this month to be reopened.")
    return row, question


def _decide(question: PeriodReopening, decision: str, *, by: str, why: str) -> None:
    PeriodReopening.objects.filter(pk=question.pk).update(
        decision=decision, decided_by=by, decided_why=why.strip(), decided_at=Now()
    )
