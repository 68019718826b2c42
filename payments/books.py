"""Reading the books: balances, trial balances, statements, each as of a moment.

A balance is the sum of an account's postings; nothing else is the truth. So that ten million of them need not be added
up again and again, a job cuts the books (services/books.py): at a cut it writes down balances and totals, and a reader
adds up only what was posted since. An account's balance is read from at most BOOKS_CUT_POSTINGS postings since the last
cut, and BOOKS_SNAPSHOT_POSTINGS before it, through the index `posting_of_account` alone.

Why a cut is safe, though transactions commit late and in any order: see `settled_moment`.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection

from foundation.database import database_now
from payments.models import Account

_LOOK_EVERY_S = 0.02
_STREAMED = 1_000  # lines read at once for an export: a few hundred kilobytes


def settled_moment(*, wait_s: float) -> datetime | None:
    """A moment before which nothing can be posted any more; None where older transactions last longer than `wait_s`.

    The proof. A posting bears its entry's moment, which a trigger takes from PostgreSQL's clock *after* its transaction
    has been given a number. We take the clock, then a number of our own, X. What bears an earlier moment was written
    under a smaller number, so it is settled as soon as every transaction below X has ended: committed, and then we
    see it, or rolled back. `pg_snapshot_xmin` says so: below it nothing runs. A range of ids or a lag of some seconds
    would prove nothing: both can be overtaken by a transaction that sleeps. A clock that is turned back cannot date
    a posting before a cut that was made (trigger `dated_by_the_database`).

    Belongs outside of transactions: what one of our own has written is not settled, so in one the answer is None.
    """
    if connection.in_atomic_block:
        return None
    patient_until = time.monotonic() + wait_s
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp(), pg_current_xact_id()::text::bigint")
        moment, number = cursor.fetchone()
        while True:
            cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= %s", [number])
            if cursor.fetchone()[0]:
                settled: datetime = moment
                return settled
            if time.monotonic() >= patient_until:
                return None
            time.sleep(_LOOK_EVERY_S)


def last_cut() -> tuple[int, datetime | None]:
    """(its number, its moment); (0, None) before the first."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT number, at FROM payments_bookcut ORDER BY number DESC LIMIT 1")
        found: tuple[int, datetime] | None = cursor.fetchone()
    return found or (0, None)


# --- Balances -----------------------------------------------------------------------------------------

# The balance of account `a.id` before the moment `m.at`: the last snapshot, and what was posted since.
_BALANCE = """
LEFT JOIN LATERAL (
    SELECT s.at, s.balance_minor FROM payments_balancesnapshot s
    WHERE s.account_id = a.id AND s.at <= m.at ORDER BY s.at DESC LIMIT 1
) last ON true
LEFT JOIN LATERAL (
    SELECT sum(p.amount_minor) AS amount_minor FROM payments_posting p
    WHERE p.account_id = a.id AND p.posted_at >= coalesce(last.at, '-infinity') AND p.posted_at < m.at
) since ON true
"""
_OF_BALANCE = "(coalesce(last.balance_minor, 0) + coalesce(since.amount_minor, 0))::bigint"


def balances(account_ids: Sequence[UUID], *, at: datetime | None = None) -> dict[UUID, int]:
    """account → Σ of its postings before `at` (all of them where None), debit positive. One statement."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT a.id, {_OF_BALANCE} FROM unnest(%s::uuid[]) AS a (id),"  # noqa: S608  constants
            f" (SELECT coalesce(%s::timestamptz, 'infinity') AS at) m {_BALANCE}",
            [list(account_ids), at],
        )
        return dict(cursor.fetchall())


def balance(account_id: UUID, *, at: datetime | None = None) -> int:
    """The same for one account."""
    return balances([account_id], at=at)[account_id]


def balance_history(account_id: UUID, moments: Sequence[datetime]) -> list[int]:
    """An account's balance before each of some moments."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {_OF_BALANCE} FROM (SELECT %s::uuid AS id) a,"  # noqa: S608  constants
            f" unnest(%s::timestamptz[]) WITH ORDINALITY AS m (at, place) {_BALANCE} ORDER BY m.place",
            [account_id, list(moments)],
        )
        return [row[0] for row in cursor.fetchall()]


# --- The trial balance --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrialLine:
    """All accounts of a kind in a currency: what was debited and credited before the moment, ever."""

    kind: str
    currency: str
    debit_minor: int
    credit_minor: int

    @property
    def balance_minor(self) -> int:
        """Debit positive."""
        return self.debit_minor - self.credit_minor

    @property
    def label(self) -> str:
        return str(Account.Kind(self.kind).label)


@dataclass(frozen=True, slots=True)
class TrialBalance:
    """The books as of a moment. They balance where each currency's debits are its credits."""

    at: datetime
    is_final: bool  # nothing can be posted before `at` any more
    lines: list[TrialLine]

    @property
    def currencies(self) -> list[str]:
        return sorted({line.currency for line in self.lines})

    def of(self, currency: str) -> list[TrialLine]:
        return [line for line in self.lines if line.currency == currency]

    def off_minor(self, currency: str) -> int:
        """Σ debit − Σ credit: 0 in books that balance."""
        return sum(line.balance_minor for line in self.of(currency))


_TOTALS = """
WITH cut AS (SELECT number, at FROM payments_bookcut WHERE at <= %(at)s ORDER BY at DESC LIMIT 1)
SELECT kind, currency, sum(debit_minor)::bigint, sum(credit_minor)::bigint
FROM (
    SELECT t.kind, t.currency, t.debit_minor, t.credit_minor
    FROM payments_kindtotal t JOIN cut ON cut.number = t.cut_id
    UNION ALL
    SELECT a.kind, a.currency, greatest(p.amount_minor, 0), greatest(-p.amount_minor, 0)
    FROM payments_posting p JOIN payments_account a ON a.id = p.account_id
    WHERE p.posted_at >= coalesce((SELECT at FROM cut), '-infinity') AND p.posted_at < %(at)s
) moved
GROUP BY 1, 2 ORDER BY 2, 1
"""


def trial_balance(*, at: datetime) -> TrialBalance:
    """The books before `at`: totals of the last cut, and what was posted since. One statement. Outside of transactions.

    What transactions under way post may belong before `at`: they are waited for, for at most BOOKS_REPORT_WAIT_S.
    """
    settled = settled_moment(wait_s=settings.BOOKS_REPORT_WAIT_S) if at <= database_now() else None
    with connection.cursor() as cursor:
        cursor.execute(_TOTALS, {"at": at})
        lines = [TrialLine(*row) for row in cursor.fetchall()]
    return TrialBalance(at, settled is not None and at <= settled, lines)


# --- Statements ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a line stands in its account: lines are in the order of their moments, then of their ids."""

    posted_at: datetime
    id: int

    def __str__(self) -> str:
        return f"{self.posted_at.isoformat()}_{self.id}"

    @classmethod
    def parse(cls, text: str) -> "Place | None":
        """None for what is none."""
        moment, _, number = text.rpartition("_")
        try:
            at = datetime.fromisoformat(moment)
            place = int(number)
        except ValueError:
            return None
        return cls(at, place) if at.tzinfo and 0 <= place < 2**63 else None


@dataclass(frozen=True, slots=True)
class StatementLine:
    """A posting with the account's balance after it. Amounts are debit positive."""

    place: Place
    entry_id: UUID
    kind: str
    reference: str
    subject: str
    memo: str
    by: str
    corrects: UUID | None
    amount_minor: int
    balance_minor: int

    @property
    def debit_minor(self) -> int:
        return max(self.amount_minor, 0)

    @property
    def credit_minor(self) -> int:
        return max(-self.amount_minor, 0)


@dataclass(frozen=True, slots=True)
class StatementPage:
    """Some lines of a statement, oldest first: the balance before them, and whether more follow in the period."""

    opening_minor: int
    lines: list[StatementLine]
    has_more: bool

    @property
    def closing_minor(self) -> int:
        return self.lines[-1].balance_minor if self.lines else self.opening_minor


_PAGE = """
WITH m AS (SELECT %(since)s::timestamptz AS at, %(after_at)s::timestamptz AS after_at, %(after_id)s::bigint AS after_id),
opening AS (
    SELECT coalesce(last.balance_minor, 0) + coalesce(since.amount_minor, 0) AS minor
    FROM m
    LEFT JOIN LATERAL (
        SELECT s.at, s.balance_minor FROM payments_balancesnapshot s
        WHERE s.account_id = %(account)s AND s.at <= m.after_at ORDER BY s.at DESC LIMIT 1
    ) last ON true
    LEFT JOIN LATERAL (
        SELECT sum(p.amount_minor) AS amount_minor FROM payments_posting p
        WHERE p.account_id = %(account)s AND p.posted_at >= coalesce(last.at, '-infinity')
          AND (p.posted_at, p.id) <= (m.after_at, m.after_id)
    ) since ON true
),
page AS (
    SELECT p.id, p.posted_at, p.entry_id, p.amount_minor
    FROM payments_posting p, m
    WHERE p.account_id = %(account)s AND p.posted_at < %(until)s AND (p.posted_at, p.id) > (m.after_at, m.after_id)
    ORDER BY p.posted_at, p.id LIMIT %(limit)s
)
SELECT opening.minor::bigint, page.posted_at, page.id, e.id, e.kind, e.reference, e.subject, e.memo, e.by, e.corrects_id,
       page.amount_minor,
       (opening.minor + sum(page.amount_minor) OVER (ORDER BY page.posted_at, page.id))::bigint
FROM opening LEFT JOIN page ON true LEFT JOIN payments_journalentry e ON e.id = page.entry_id
ORDER BY page.posted_at, page.id
"""


def statement_page(
    account_id: UUID, *, since: datetime, until: datetime, after: Place | None, limit: int
) -> StatementPage:
    """Lines of [since, until) that stand after a place, with the running balance. One statement, whatever the page."""
    start = after if after and after.posted_at >= since else Place(since, -1)
    parameters: dict[str, Any] = {
        "account": account_id,
        "since": since,
        "until": until,
        "after_at": start.posted_at,
        "after_id": start.id,
        "limit": limit + 1,
    }
    with connection.cursor() as cursor:
        cursor.execute(_PAGE, parameters)
        rows: list[Any] = cursor.fetchall()
    lines = [StatementLine(Place(row[1], row[2]), *row[3:]) for row in rows if row[2] is not None]
    return StatementPage(rows[0][0], lines[:limit], has_more=len(lines) > limit)


def statement_lines(account_id: UUID, *, since: datetime, until: datetime) -> Iterator[StatementLine]:
    """All lines of [since, until) with the running balance, read page by page: memory is bounded, no transaction stays."""
    after: Place | None = None
    while True:
        page = statement_page(account_id, since=since, until=until, after=after, limit=_STREAMED)
        yield from page.lines
        if not page.has_more:
            return
        after = page.lines[-1].place


_NEWEST = """
SELECT p.posted_at, p.id, e.id, e.kind, e.reference, e.subject, e.memo, e.by, e.corrects_id, p.amount_minor
FROM payments_posting p JOIN payments_journalentry e ON e.id = p.entry_id
WHERE p.account_id = %s ORDER BY p.posted_at DESC, p.id DESC LIMIT %s
"""


def newest_lines(account_id: UUID, *, limit: int) -> list[StatementLine]:
    """An account's last lines, newest first, with the balance after each."""
    with connection.cursor() as cursor:
        cursor.execute(_NEWEST, [account_id, limit])
        rows: list[Any] = cursor.fetchall()
    if not rows:
        return []
    newest = Place(*rows[0][:2])
    top = statement_page(account_id, since=newest.posted_at, until=newest.posted_at, after=newest, limit=0)
    lines, balance_minor = [], top.opening_minor
    for row in rows:
        lines.append(StatementLine(Place(row[0], row[1]), *[*row[2:], balance_minor]))
        balance_minor -= row[-1]
    return lines


def statement_is_final(until: datetime) -> bool:
    """Whether nothing can be posted before `until` any more. Belongs outside of transactions."""
    settled = settled_moment(wait_s=0)
    return settled is not None and until <= settled


def day_ends(last: datetime, days: int) -> list[datetime]:
    """The ends of the last finished days before a moment, oldest first, and that moment."""
    midnight = last.replace(hour=0, minute=0, second=0, microsecond=0)
    return [*(midnight - timedelta(days=back) for back in reversed(range(days - 1))), last]
