"""The provider's books as statements: per day and currency, opening + bookings by category = closing, and the proofs of it.

That the lines lead from one balance to the other is arithmetic, and proves nothing. Three numbers do that come from
elsewhere, each at the same cut (midnight UTC, by the provider's clock):

- balance: what the provider itself said that it held (`ProviderBalanceReading`). A reading names the newest rows that it
  includes, so no clock of ours is asked: the rows up to there must add up to it;
- clearing: our own ledger's account of what the provider holds. Postings made after the cut about bookings made before it
  count; what open or accepted discrepancies and payouts on their way make it differ by is explained, object by object;
- payouts: what each payout of the day collected is its amount. What open or accepted items say of payouts is explained.

What neither explains is the residual. A proof that cannot be made yet (a day was not read, or not reconciled, or the rows
of a payout were not listed) says why, and is no residual.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Min, Sum

from foundation.database import database_now
from payments import selectors as payments
from payments.selectors import (
    BOOKINGS_VIEW,
    CHARGES_VIEW,
    CLEARING_CORRECTIONS_VIEW,
    CLEARING_LINES_VIEW,
    DISPUTES_VIEW,
    MOVEMENTS_VIEW,
    NUMBER_FUNCTION,
    PAYOUT_MOVEMENTS_VIEW,
    PAYOUTS_AT_BANK_VIEW,
    PAYOUTS_VIEW,
    POSTED_VIEW,
    REFUNDS_VIEW,
)
from payments.types import LearntFee
from reconciliation import matching
from reconciliation.models import (
    BooksStart,
    DayTotal,
    Discrepancy,
    ProviderBalanceReading,
    ProviderTransaction,
    ReconciliationRun,
)
from reconciliation.states import UNRESOLVED_STATES, ClosedAs, RunState
from reconciliation.types import BROKEN_PROMISE, FUZZY, Kind, Proof, Proved, Rule, Statement, StatementLine

_A_DAY = timedelta(days=1)
# Our clock and the provider's may differ by so much: a posting of before the cut may belong to a booking of after it.
_SKEW = timedelta(hours=1)
_PAYOUTS_COME_BACK = timedelta(days=45)  # longer than any bank takes to send one back
_SALES_GO_ON = timedelta(
    days=45
)  # the same of a refund or of a payment by debit; an authorization is captured within 30 days

# --- Totals -----------------------------------------------------------------------------------------

_COUNT = """
INSERT INTO reconciliation_daytotal (date, currency, reporting_category, rows, gross_minor, fee_minor, net_minor)
SELECT (t.created_at AT TIME ZONE 'UTC')::date, t.currency, t.reporting_category, count(*), sum(t.amount_minor),
       sum(t.fee_minor), sum(t.net_minor)
FROM reconciliation_providertransaction t
WHERE t.created_at >= %(since)s AND t.created_at < %(until)s AND t.withdrawn_at IS NULL
GROUP BY 1, 2, 3
"""


def recount(first: date, last: date) -> None:
    """Add up some days' rows anew, both included. Belongs inside `one_writer`."""
    DayTotal.objects.filter(date__range=(first, last)).delete()
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, {"since": matching.window(first)[0], "until": matching.window(last)[1]})


def recount_of(source: str) -> None:
    """The days on which an object was booked, whose rows may have been read again. Belongs inside `one_writer`."""
    rows = ProviderTransaction.objects.filter(source=source).values_list("created_at", flat=True)
    for day in sorted({moment.astimezone(UTC).date() for moment in rows}):
        recount(day, day)


# --- Where the books begin, and what was read of them ------------------------------------------------


def start() -> BooksStart | None:
    """What was written down at go-live."""
    return BooksStart.objects.first()


def starts_on() -> date | None:
    """The first day that our books answer for; None where nobody wrote it down: then all rows count."""
    return BooksStart.objects.values_list("starts_on", flat=True).first()


def first_day() -> date | None:
    """Where the statements begin: at the start of the books, else with our first capture, else with the first row.

    An account that had a life before us needs its start written down: until then its balance is off by what was there.
    """
    declared = starts_on()
    if declared:
        return declared
    moment = payments.first_capture_at() or ProviderTransaction.objects.aggregate(first=Min("created_at"))["first"]
    return moment.astimezone(UTC).date() if moment else None


# A file may hold everything but payouts, and another one nothing else.
_UNREAD = """
SELECT count(*) FROM unnest((
    SELECT %(whole)s::tstzmultirange
           - coalesce(range_agg(window_read) FILTER (WHERE part <> 'payouts'), '{}')
             * coalesce(range_agg(window_read) FILTER (WHERE part <> 'activity'), '{}')
    FROM (SELECT part, tstzrange(since, until) AS window_read FROM reconciliation_providerread
          WHERE finished_at IS NOT NULL AND currency IN ('', %(currency)s)) finished
))
"""


def unread(since: datetime, until: datetime, *, currency: str) -> int:
    """How many stretches of a window nobody has read to the end, of a currency's rows."""
    if since >= until:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(_UNREAD, {"whole": f"{{[{since.isoformat()},{until.isoformat()})}}", "currency": currency})
        return int(cursor.fetchone()[0])


# --- Statements -------------------------------------------------------------------------------------


def statements(
    day: date,
    *,
    to_post: Sequence[LearntFee] = (),
    completing: date | None = None,
    payouts_since: date | None = None,
) -> list[Statement]:
    """The statement of a day in each currency that the account has ever held, or that our ledger has ever had there, the proofs
    beside it.

    `to_post`: fees up to then that our ledger is about to learn of (a dry run posts nothing). `completing`: the day of the run
    that asks, which is about to be reconciled. `payouts_since`: the first day whose payouts are proved with it; balances have come
    from all days, payouts are of their own (None: of this day).
    """
    begin = first_day()
    if begin is None or day < begin:
        return []
    opened = start()
    held: dict[str, int] = dict(opened.balances) if opened else {}
    opening = _plus(held, begin, day - timedelta(days=1))
    # Ours as well: what we booked in a currency of which the provider knows nothing would stand in no statement.
    closing = dict.fromkeys([*_told_currencies(), *payments.clearing_accounts()], 0) | _plus(held, begin, day)
    lines: dict[str, list[StatementLine]] = {currency: [] for currency in closing}
    for total in DayTotal.objects.filter(date=day).order_by("reporting_category"):
        lines[total.currency].append(
            StatementLine(total.reporting_category, total.rows, total.gross_minor, total.fee_minor, total.net_minor)
        )
    unposted: dict[str, int] = {}
    for fee in to_post:
        unposted[fee.currency] = unposted.get(fee.currency, 0) + fee.fee_minor
    paid_out_since = matching.window(max(payouts_since or day, begin))[0]
    cut_at, since = matching.window(day)[1], matching.window(begin)[0]
    cut = _Cut(day, begin, paid_out_since, cut_at, since, held, closing, unposted, completing)
    proofs = _proofs(cut)
    return [
        Statement(
            day=day,
            currency=currency,
            opening_minor=opening.get(currency, 0),
            lines=tuple(lines[currency]),
            closing_minor=closing[currency],
            proofs=tuple(proofs[currency]),
        )
        for currency in sorted(closing)
    ]


def _told_currencies() -> list[str]:
    """Currencies of which the provider says that it holds something, with or without a row."""
    newest = ProviderBalanceReading.objects.order_by("-id").first()
    parts = newest.balances if newest else {}
    return [currency for currency, part in parts.items() if part["available"] or part["pending"]]


def as_stored(found: Iterable[Statement]) -> dict[str, Any]:
    """What a run keeps of its statements."""
    return {one.currency: asdict(one) | {"day": one.day.isoformat()} for one in found}


def stored_residual(statement: Mapping[str, Any]) -> int:
    """`Statement.residual_minor` of one that a run has kept; 0 where it kept none."""
    proofs = statement.get("proofs", ())
    return max((proof["residual_minor"] or 0 for proof in proofs if not proof["accepted"]), key=abs, default=0)


def _plus(held: dict[str, int], first: date, last: date) -> dict[str, int]:
    """Balances, and what some days, both included, added to them."""
    total = dict(held)
    nets = DayTotal.objects.filter(date__range=(first, last)).order_by().values_list("currency")
    for currency, net_minor in nets.annotate(Sum("net_minor")):
        total[currency] = total.get(currency, 0) + net_minor
    return total


# --- Proofs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where a statement ends, and what it says: balances in minor units by currency."""

    day: date
    begin: date
    paid_out_since: datetime  # the first moment whose payouts are proved: the day's, unless it ends a month
    at: datetime  # the day's end
    since: datetime  # the first moment of the books
    held: dict[str, int]  # at `since`
    closing: dict[str, int]  # at `at`
    unposted: dict[str, int]  # fees that our ledger has yet to learn of
    completing: date | None  # the day whose run asks


def _proofs(cut: _Cut) -> dict[str, list[Proof]]:
    missing = {currency for currency in cut.closing if unread(cut.since, cut.at, currency=currency)}
    waiting = _days_not_reconciled(cut)
    clearing = {} if waiting or missing == set(cut.closing) else _clearing(cut)
    payouts = _payouts(cut)
    unread_note = f"not every row since {cut.begin} was read"
    late_note = f"{waiting} days since {cut.begin} are not reconciled"
    accepted = _accepted_residuals()
    found = {}
    for currency in cut.closing:
        proofs = [
            _not_yet(Proved.BALANCE, unread_note) if currency in missing else _balance(currency, cut),
            _not_yet(Proved.CLEARING, unread_note if currency in missing else late_note)
            if currency in missing or waiting
            else clearing[currency],
            payouts[currency],
        ]
        found[currency] = [
            replace(proof, accepted=bool(proof.residual_minor))
            if accepted.get(f"{currency}:{proof.name}") == proof.residual_minor
            else proof
            for proof in proofs
        ]
    return found


def _accepted_residuals() -> dict[str, int | None]:
    """`currency:proof` → what a person accepted that it is off by."""
    items = Discrepancy.objects.filter(object_kind="statement", closed_as=ClosedAs.ACCEPTED)
    return dict(items.values_list("source", "difference_minor"))


def _not_yet(name: str, note: str) -> Proof:
    return Proof(name, None, 0, None, note)


def _days_not_reconciled(cut: _Cut) -> int:
    """Days before this one without a completed run. The run that asks is about to complete its day, this one or an earlier."""
    runs = ReconciliationRun.objects.filter(state=RunState.COMPLETED, provisional=False)
    done = set(runs.filter(date__gte=cut.begin, date__lt=cut.day).values_list("date", flat=True).distinct())
    if cut.completing and cut.begin <= cut.completing < cut.day:
        done.add(cut.completing)
    return (cut.day - cut.begin).days - len(done)


# What a reading includes, beside the totals of whole days: the rows of its last day, up to the second and the rows it names.
_INCLUDED = """
SELECT coalesce(sum(net_minor) FILTER (WHERE created_at < %(through)s OR id = ANY(%(edge)s)), 0)::bigint,
       coalesce(sum(greatest(net_minor, 0)) FILTER (WHERE id = ANY(%(unsure)s)), 0)::bigint,
       coalesce(sum(least(net_minor, 0)) FILTER (WHERE id = ANY(%(unsure)s)), 0)::bigint
FROM reconciliation_providertransaction
WHERE currency = %(currency)s AND withdrawn_at IS NULL AND created_at >= %(midnight)s AND created_at < %(next)s
"""


def _balance(currency: str, cut: _Cut) -> Proof:
    """What the provider said, brought to the cut by the rows in between."""
    reading = _reading_near(cut, currency)
    if reading is None:
        return _not_yet(Proved.BALANCE, "no balance was read yet that the rows we have reach up to")
    parts = reading.balances.get(currency, {"available": 0, "pending": 0})
    told_minor = parts["available"] + parts["pending"]
    included_minor, maybe_in, maybe_out = cut.held.get(currency, 0), 0, 0
    if reading.through_at:
        on = reading.through_at.astimezone(UTC).date()
        midnight, next_midnight = matching.window(on)
        parameters: dict[str, Any] = {
            "currency": currency,
            "midnight": midnight,
            "next": next_midnight,
            "through": reading.through_at,
            "edge": list(reading.edge),
            "unsure": list(reading.unsure),
        }
        with connection.cursor() as cursor:
            cursor.execute(_INCLUDED, parameters)
            rest_minor, maybe_in, maybe_out = cursor.fetchone()
        included_minor = _plus(cut.held, cut.begin, on - timedelta(days=1)).get(currency, 0) + rest_minor
    off_minor = told_minor - included_minor
    # What was booked while it was asked may be in the balance, or not.
    residual_minor = off_minor - min(max(off_minor, maybe_out), maybe_in)
    note = f"read on {reading.taken_at:%Y-%m-%d %H:%M} UTC"
    return Proof(Proved.BALANCE, cut.closing[currency] + residual_minor, 0, residual_minor, note)


def _reading_near(cut: _Cut, currency: str) -> ProviderBalanceReading | None:
    """The reading nearest to a cut whose rows were all read; the one before it where both are as near."""
    readings = ProviderBalanceReading.objects.filter(through_at__gte=cut.since)
    near = [readings.filter(through_at__lt=cut.at).order_by("-through_at", "-id").first()]
    later = readings.filter(through_at__gte=cut.at).order_by("through_at", "-id").first()
    if later and later.through_at and not unread(cut.at, later.through_at + timedelta(seconds=1), currency=currency):
        near.append(later)
    known = [reading for reading in near if reading is not None]
    if not known:
        empty = ProviderBalanceReading.objects.filter(through_at__isnull=True).order_by("-id").first()
        nothing_yet = not ProviderTransaction.objects.filter(withdrawn_at__isnull=True).exists()
        return empty if nothing_yet else None
    return min(known, key=lambda reading: abs((reading.through_at or cut.at) - cut.at))


# --- The proof against our own clearing account ------------------------------------------------------

# `counted`: lines of `posted` on a clearing account that count at the cut: what was posted before `from`, where no clock is in doubt, and of
# what was posted since that which was booked before the cut. A line's moment is, by the provider's clock, that of its row, else
# that of its object.
_COUNTED = f"""
first_booked AS (  -- of a capture, by the provider: a busy day has hundreds of thousands, so all at once
    SELECT charge.id, min(t.created_at) AS at
    FROM posted p
    JOIN {CHARGES_VIEW} charge ON charge.id = p.object_id
    JOIN reconciliation_providertransaction t
      ON t.source = charge.source AND t.reporting_category = 'charge' AND t.withdrawn_at IS NULL
    WHERE p.kind = 'capture' GROUP BY charge.id
), counted AS (
SELECT p.currency, p.amount_minor
FROM posted p
LEFT JOIN reconciliation_providertransaction t ON t.id = CASE
    WHEN p.kind IN ('fee', 'fee_correction', 'dispute_withdrawn', 'dispute_reinstated', 'provider_booking')
    THEN split_part(p.key, ':', 2) END
LEFT JOIN {CHARGES_VIEW} charge ON charge.id = CASE WHEN t.id IS NULL THEN p.object_id END
LEFT JOIN first_booked ON first_booked.id = CASE WHEN p.kind = 'capture' THEN p.object_id END
LEFT JOIN {REFUNDS_VIEW} refund ON refund.id = CASE WHEN t.id IS NULL THEN p.object_id END
LEFT JOIN {DISPUTES_VIEW} dispute ON dispute.id = CASE WHEN t.id IS NULL THEN p.object_id END
LEFT JOIN {PAYOUT_MOVEMENTS_VIEW} payout ON payout.id = CASE WHEN t.id IS NULL THEN p.object_id END
WHERE p.posted_at < %(from)s OR coalesce(
    t.created_at,
    CASE p.kind
        -- Charged just before midnight, a payment may be booked just after it: then it is in the next day's balance.
        WHEN 'capture' THEN first_booked.at
        WHEN 'refund_failed_late' THEN (
            SELECT max(back.created_at) FROM reconciliation_providertransaction back
            WHERE back.source = refund.source AND back.reporting_category = 'refund_failure')
        WHEN 'payout_failed' THEN (
            SELECT max(back.created_at) FROM reconciliation_providertransaction back
            WHERE back.source = payout.source AND back.reporting_category = 'payout_reversal')
        WHEN 'opening' THEN '-infinity'
        WHEN 'write_off' THEN split_part(p.key, ':', 2)::timestamp AT TIME ZONE 'UTC'
    END,
    charge.occurred_at, refund.occurred_at, dispute.occurred_at, payout.occurred_at, p.posted_at
) < %(cut)s
)"""  # noqa: S608  constants

# Of what was posted since `from`: added to the account's balance there.
_POSTED_SINCE = f"""
WITH posted AS (
    SELECT p.currency, p.amount_minor, p.posted_at, p.kind, p.key, p.object_id FROM {POSTED_VIEW} p
    WHERE p.account_id = %(account)s AND p.posted_at >= %(from)s
), {_COUNTED}
SELECT coalesce(sum(amount_minor), 0)::bigint FROM counted
"""  # noqa: S608

# Objects that both books are known to hold differently at the cut, now or for a while. Each is as both hold it at this moment: what
# an item says of ours may be long past.
_OBJECTS = f"""
item AS (
    SELECT d.object_kind AS kind, d.source, CASE d.object_kind WHEN 'charge' THEN d.payment_id END AS payment_id,
           CASE d.object_kind WHEN 'refund' THEN d.refund_id END AS refund_id
    FROM reconciliation_discrepancy d
    WHERE d.object_kind NOT IN ('statement', 'bank') AND d.business_date <= %(day)s
      AND (d.state = ANY(%(unresolved)s) OR d.closed_as = 'accepted')
      AND NOT jsonb_exists(d.evidence, '{BROKEN_PROMISE}') -- both books hold it alike
), object AS MATERIALIZED (
    SELECT kind, source FROM item
    UNION
    -- On its way to our bank: the provider has booked it, we book it when it arrives.
    SELECT 'payout', m.source FROM {MOVEMENTS_VIEW} m
    WHERE m.kind = 'payout' AND m.occurred_at < %(cut)s
      AND (m.status IN ('pending', 'in_transit') OR m.status IN ('failed', 'cancelled') AND m.occurred_at >= %(recent)s)
    UNION
    -- Booked in several rows, before and after the cut: captured in parts, or failed later. Ours is one movement, or none.
    SELECT {matching.KIND}, t.source FROM reconciliation_providertransaction t
    WHERE t.created_at >= %(cut)s AND t.created_at < %(goes_on)s AND t.withdrawn_at IS NULL
      AND t.reporting_category = ANY(%(sales)s)
      AND EXISTS (SELECT FROM reconciliation_providertransaction before
                  WHERE before.source = t.source AND before.created_at >= %(since)s AND before.created_at < %(cut)s
                    AND before.withdrawn_at IS NULL AND before.reporting_category = ANY(%(sales)s))
), ours AS (  -- an id says of which kind it is; a condition on the kind would make PostgreSQL expect very few
    SELECT {NUMBER_FUNCTION}('pay', m.id) AS subject FROM object o JOIN {CHARGES_VIEW} m ON m.source = o.source
    UNION SELECT {NUMBER_FUNCTION}('ref', m.id) FROM object o JOIN {REFUNDS_VIEW} m ON m.source = o.source
    UNION SELECT {NUMBER_FUNCTION}('dsp', m.id) FROM object o JOIN {DISPUTES_VIEW} m ON m.source = o.source
    UNION SELECT {NUMBER_FUNCTION}('pot', m.id) FROM object o JOIN {PAYOUT_MOVEMENTS_VIEW} m ON m.source = o.source
    UNION SELECT {NUMBER_FUNCTION}(CASE o.kind WHEN 'charge' THEN 'pay' ELSE 'ref' END, x.ours_id)
        FROM object o JOIN reconciliation_match x ON x.object = o.kind || ':' || o.source AND x.rule = ANY(%(joins)s)
    -- What an item names, unless it is another object's that the provider's books hold after all.
    UNION SELECT {NUMBER_FUNCTION}('pay', m.id) FROM item o JOIN {CHARGES_VIEW} m ON m.id = o.payment_id
        WHERE NOT EXISTS (SELECT FROM reconciliation_providertransaction t
                          WHERE t.source = m.source AND t.source <> o.source AND t.withdrawn_at IS NULL)
    UNION SELECT {NUMBER_FUNCTION}('ref', m.id) FROM item o JOIN {REFUNDS_VIEW} m ON m.id = o.refund_id
        WHERE NOT EXISTS (SELECT FROM reconciliation_providertransaction t
                          WHERE t.source = m.source AND t.source <> o.source AND t.withdrawn_at IS NULL)
), theirs AS MATERIALIZED (
    SELECT t.id, t.currency, t.net_minor FROM object o JOIN reconciliation_providertransaction t ON t.source = o.source
    WHERE t.reporting_category = ANY(CASE o.kind
            WHEN 'charge' THEN %(charge)s::text[] WHEN 'refund' THEN %(refund)s::text[]
            WHEN 'dispute' THEN %(dispute)s::text[] WHEN 'payout' THEN %(payout)s::text[] END)
      AND t.created_at >= %(since)s AND t.created_at < %(cut)s AND t.withdrawn_at IS NULL
), posted AS (  -- but for fees: each belongs to the object of its row, whoever is its subject
    SELECT p.currency, p.amount_minor, p.posted_at, p.kind, p.key, p.object_id
    FROM ours o JOIN {POSTED_VIEW} p ON p.subject = o.subject
    WHERE p.account_kind = 'provider_clearing' AND NOT (p.kind IN ('fee', 'fee_correction') AND EXISTS (
        SELECT FROM reconciliation_providertransaction t WHERE t.id = split_part(p.key, ':', 2) AND t.withdrawn_at IS NULL))
)"""  # noqa: S608

# By how much they move both at the cut: net, fees included.
_EXPLAINED = f"""
WITH {_OBJECTS}, {_COUNTED}
SELECT moved.currency, sum(moved.minor)::bigint FROM (
SELECT currency, net_minor AS minor FROM theirs
UNION ALL
SELECT l.currency, -l.amount_minor FROM theirs t JOIN {CLEARING_LINES_VIEW} l ON l.key = 'fee:' || t.id
UNION ALL
SELECT l.currency, -l.amount_minor FROM theirs t JOIN {CLEARING_CORRECTIONS_VIEW} l ON l.key = 'fee:' || t.id
UNION ALL
SELECT t.currency, t.net_minor FROM object o JOIN reconciliation_providertransaction t ON t.id = o.source
WHERE o.kind IN ('adjustment', 'other')
  AND t.created_at >= %(since)s AND t.created_at < %(cut)s AND t.withdrawn_at IS NULL
UNION ALL
SELECT b.currency, -b.clearing_minor FROM object o JOIN {BOOKINGS_VIEW} b ON b.key = 'booking:' || o.source
WHERE o.kind IN ('adjustment', 'other')
UNION ALL
SELECT currency, -amount_minor FROM counted
UNION ALL
-- What a tolerance let pass stays a difference between both books…
SELECT m.currency, m.difference_minor FROM reconciliation_match m
WHERE m.tolerance_minor IS NOT NULL AND greatest(m.theirs_on, m.ours_on) BETWEEN %(begin)s AND %(day)s
  AND NOT EXISTS (SELECT FROM object o WHERE m.object = o.kind || ':' || o.source)
UNION ALL
-- …and what was put together across the cut stands in one of them alone.
SELECT m.currency, CASE WHEN m.object LIKE 'refund:%%' THEN -1 ELSE 1 END * CASE
    WHEN m.theirs_on <= %(day)s THEN m.theirs_minor
    ELSE -(m.theirs_minor - CASE WHEN m.object LIKE 'refund:%%' THEN -1 ELSE 1 END * m.difference_minor) END
FROM reconciliation_match m
WHERE m.rule = ANY(%(joins)s) AND least(m.theirs_on, m.ours_on) BETWEEN %(begin)s AND %(day)s
  AND greatest(m.theirs_on, m.ours_on) > %(day)s
  AND NOT EXISTS (SELECT FROM object o WHERE m.object = o.kind || ':' || o.source)
) moved
GROUP BY moved.currency
"""  # noqa: S608


def _clearing(cut: _Cut) -> dict[str, Proof]:
    currencies = list(cut.closing)
    accounts = payments.clearing_accounts()
    from_ = cut.at - _SKEW - provider_is_ahead()
    balances = payments.clearing_balances(currencies, at=from_)
    parameters: dict[str, Any] = {
        "day": cut.day,
        "cut": cut.at,
        "since": cut.since,
        "recent": cut.at - _PAYOUTS_COME_BACK,
        "from": from_,
        "unresolved": list(UNRESOLVED_STATES),
        "begin": cut.begin,
        "joins": [Rule.PERSON, *FUZZY],
        "goes_on": cut.at + _SALES_GO_ON,
        "sales": [category for kind in matching.LINKED for category in matching.CATEGORIES[kind]],
        **{kind: list(categories) for kind, categories in matching.CATEGORIES.items()},
    }
    proofs = {}
    with connection.cursor() as cursor:
        cursor.execute(_EXPLAINED, parameters)
        explained: dict[str, int] = dict(cursor.fetchall())
        for currency, closing_minor in cut.closing.items():
            cursor.execute(_POSTED_SINCE, parameters | {"account": accounts.get(currency)})
            ours_minor = balances[currency] + cursor.fetchone()[0]
            of_items = explained.get(currency, 0) - cut.unposted.get(currency, 0)
            note = "open items and payouts under way make a difference" if of_items else ""
            residual_minor = closing_minor - ours_minor - of_items
            proofs[currency] = Proof(Proved.CLEARING, ours_minor, of_items, residual_minor, note)
    return proofs


def provider_is_ahead() -> timedelta:
    """How far its clock runs before ours (a sandbox whose clock was put forward)."""
    newest = ProviderTransaction.objects.order_by("-created_at").values_list("created_at", flat=True).first()
    return max(timedelta(), newest - database_now()) if newest else timedelta()


# --- The proof of payouts ---------------------------------------------------------------------------

# What is off is explained where an item says just that of it: a payout that our books do not know, or one whose rows the item has
# added up to the same.
_COLLECTED = f"""
SELECT currency, count(*), count(collected_minor), count(*) FILTER (WHERE by_hand),
       count(*) FILTER (WHERE collected_minor IS NULL AND NOT by_hand AND is_item),
       coalesce(sum(collected_minor), 0)::bigint,
       coalesce(sum(coalesce(collected_minor, 0) + amount_minor) FILTER (WHERE is_item AND NOT by_hand), 0)::bigint,
       coalesce(sum(collected_minor + amount_minor) FILTER (WHERE NOT is_item), 0)::bigint
FROM (
    SELECT t.currency, t.amount_minor, c.collected_minor,
           c.collected_minor IS NULL AND coalesce(NOT o.automatic, false) AS by_hand,
           EXISTS (
               SELECT FROM reconciliation_discrepancy d
               WHERE d.fingerprint IN ('{Kind.PAYOUT_DIFFERENCE}:' || t.source, '{Kind.FOREIGN_INSTANCE}:' || t.source)
                 AND d.object_kind = 'payout'
                 AND (d.state = ANY(%(unresolved)s) OR d.closed_as = 'accepted')
                 AND (c.collected_minor IS NULL OR (d.evidence ->> 'collected_minor')::bigint = c.collected_minor)
           ) AS is_item
    FROM reconciliation_providertransaction t
    LEFT JOIN LATERAL (SELECT p.* FROM {PAYOUTS_VIEW} p WHERE p.source = t.source OFFSET 0) c ON true
    LEFT JOIN LATERAL (SELECT p.automatic FROM {PAYOUTS_AT_BANK_VIEW} p WHERE p.source = t.source OFFSET 0) o ON true
    WHERE t.created_at >= %(since)s AND t.created_at < %(cut)s AND t.withdrawn_at IS NULL AND t.reporting_category = 'payout'
) paid_out
GROUP BY currency
"""  # noqa: S608


def _payouts(cut: _Cut) -> dict[str, Proof]:
    """Σ net of what the day's payouts collected beside their amounts. One whose rows nobody has listed proves nothing, unless it is
    an item itself; of one that was made by hand the provider lists none.
    """
    none = "none on this day" if cut.at - cut.paid_out_since == _A_DAY else f"none since {cut.paid_out_since:%Y-%m-%d}"
    with connection.cursor() as cursor:
        cursor.execute(_COLLECTED, {"since": cut.paid_out_since, "cut": cut.at, "unresolved": list(UNRESOLVED_STATES)})
        found = {row[0]: row[1:] for row in cursor.fetchall()}
    proofs = {}
    for currency in cut.closing:
        payouts, listed, by_hand, items, collected_minor, explained_minor, residual_minor = found.get(currency, [0] * 7)
        parts = [f"{listed} of {payouts} payouts list their rows" if payouts else none]
        parts += [f"{by_hand} made by hand list none"] if by_hand else []
        parts += [f"{items} not listed are items"] if items else []
        note = ", ".join(parts)
        is_made = residual_minor or payouts == listed + by_hand + items
        proofs[currency] = (
            Proof(Proved.PAYOUTS, collected_minor, explained_minor, residual_minor, note)
            if is_made
            else _not_yet(Proved.PAYOUTS, note)
        )
    return proofs
