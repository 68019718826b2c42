"""The books' own work: cuts for fast balances, the daily proof that they agree with themselves, and corrections."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from foundation.database import database_now
from foundation.errors import InvalidInput, NotFound
from foundation.ids import public_id
from foundation.money import require_money
from payments import books, ledger
from payments.errors import BooksNotSettled, EntryNotReversible
from payments.ledger import KEEPS_BALANCE, AccountKey
from payments.locks import lock_payment, lock_refund
from payments.models import Account, BooksCheck, JournalEntry, LateChange, Payment, Posting, Refund

log = logging.getLogger(__name__)


def forget_late_changes(day: date) -> None:
    """Whoever calls has compared this day (UTC) with the provider's books. Belongs inside the transaction that saw both: what came
    meanwhile it neither sees nor forgets."""
    LateChange.objects.filter(day=day).delete()


# --- Cuts ---------------------------------------------------------------------------------------------


def cut_books() -> int:
    """Cut the books where enough was posted, or a UTC day ended; how many cuts were made.

    Each cut is a transaction over at most BOOKS_CUT_POSTINGS postings, all of them settled. Belongs outside of
    transactions.
    """
    settled = books.settled_moment(wait_s=settings.BOOKS_SETTLE_WAIT_S)
    if settled is None:
        log.warning("a transaction runs for longer than %s s: no cut is made now", settings.BOOKS_SETTLE_WAIT_S)
        return 0
    cuts = 0
    while _cut_once(settled):
        cuts += 1
    return cuts


def seal_books(*, through: datetime) -> datetime:
    """Cut the books so that nothing can be posted before `through` any more, and return the moment of the last cut.

    From then on the trigger `dated_by_the_database` gives every entry a later moment, whatever its INSERT says: closing a
    period asks nothing more of a sale than it pays already. Belongs outside of transactions. Raises BooksNotSettled.
    """
    last = books.last_cut()[1]
    if last and last >= through:
        return last
    settled = books.settled_moment(wait_s=settings.BOOKS_SETTLE_WAIT_S)
    if settled is None or settled < through:
        raise BooksNotSettled
    while _cut_once(settled):
        pass
    while (last := books.last_cut()[1]) is None or last < through:  # nothing was posted since, so no cut was due
        _cut_once(settled, at=through)
    return last


def _cut_once(settled: datetime, *, at: datetime | None = None) -> bool:
    """The next cut, where one is due or a moment is given; False where none was made."""
    with transaction.atomic(durable=True):
        before, since = books.last_cut()
        at = at or _next_cut_at(since, settled)
        if at is None or (since and at <= since) or not _insert_cut(before + 1, since, at):
            return False
        _snapshot_balances(since, at)
        _add_up_totals(before, since, at)
    return True


def _next_cut_at(since: datetime | None, settled: datetime) -> datetime | None:
    """Where the next cut falls: after a full batch of postings, else at the last midnight; None where neither is due."""
    postings = Posting.objects.filter(posted_at__lt=settled)
    waiting = postings.filter(posted_at__gte=since) if since else postings
    moments = waiting.order_by("posted_at").values_list("posted_at", flat=True)
    full: datetime | None = moments[settings.BOOKS_CUT_POSTINGS :].first()
    if full:
        # More lines of one moment than a batch holds are one batch all the same.
        return full if full != moments[0] else moments.filter(posted_at__gt=full).first()
    midnight = datetime.combine(settled.astimezone(UTC).date(), time(), UTC)
    return midnight if waiting.filter(posted_at__lt=midnight).exists() else None


def _insert_cut(number: int, since: datetime | None, at: datetime) -> bool:
    """False where somebody else has just made it: that one's commit was waited for."""
    return _execute(
        """
        INSERT INTO payments_bookcut (number, at, postings)
        SELECT %(number)s, %(at)s, count(*) FROM payments_posting WHERE posted_at >= %(since)s AND posted_at < %(at)s
        ON CONFLICT (number) DO NOTHING
        """,
        {"number": number, "since": since or "-infinity", "at": at},
    )


def _snapshot_balances(since: datetime | None, at: datetime) -> None:
    """Of the accounts that were posted to: those with enough lines since their last snapshot. A customer's few lines are
    added up as fast as a snapshot is found."""
    _execute(
        """
        INSERT INTO payments_balancesnapshot (account_id, at, balance_minor, postings)
        SELECT moved.account_id, %(at)s, coalesce(last.balance_minor, 0) + since.amount_minor,
               coalesce(last.postings, 0) + since.lines
        FROM (
            SELECT DISTINCT account_id FROM payments_posting WHERE posted_at >= %(since)s AND posted_at < %(at)s
        ) moved
        LEFT JOIN LATERAL (
            SELECT s.at, s.balance_minor, s.postings FROM payments_balancesnapshot s
            WHERE s.account_id = moved.account_id ORDER BY s.at DESC LIMIT 1
        ) last ON true
        CROSS JOIN LATERAL (
            SELECT sum(p.amount_minor) AS amount_minor, count(*) AS lines FROM payments_posting p
            WHERE p.account_id = moved.account_id AND p.posted_at >= coalesce(last.at, '-infinity')
              AND p.posted_at < %(at)s
        ) since
        WHERE since.lines >= %(enough)s
        """,
        {"since": since or "-infinity", "at": at, "enough": settings.BOOKS_SNAPSHOT_POSTINGS},
    )


def _add_up_totals(before: int, since: datetime | None, at: datetime) -> None:
    _execute(
        """
        INSERT INTO payments_kindtotal (cut_id, kind, currency, debit_minor, credit_minor)
        SELECT %(before)s + 1, kind, currency, sum(debit_minor), sum(credit_minor)
        FROM (
            SELECT kind, currency, debit_minor, credit_minor FROM payments_kindtotal WHERE cut_id = %(before)s
            UNION ALL
            SELECT a.kind, a.currency, greatest(p.amount_minor, 0), greatest(-p.amount_minor, 0)
            FROM payments_posting p JOIN payments_account a ON a.id = p.account_id
            WHERE p.posted_at >= %(since)s AND p.posted_at < %(at)s
        ) moved
        GROUP BY kind, currency
        """,
        {"before": before, "since": since or "-infinity", "at": at},
    )


def _execute(statement: str, parameters: Mapping[str, Any]) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return bool(cursor.rowcount)


# --- The daily proof ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that the books say in two places, and differently. `law` names what is broken."""

    law: str
    object: str
    text: str


def check_books_of_today() -> bool:
    """Prove the books once a UTC day, whoever asks and however often; whether it was done now."""
    day = database_now().astimezone(UTC).date()
    if BooksCheck.objects.filter(day=day, finished_at__isnull=False).exists():
        return False
    check_books(day=day)
    return True


def check_books(*, day: date) -> BooksCheck:
    """Look for differences in all the books, and write down what was found for that day. Raises nothing for what it
    finds: the metric and the alert tell of it.

    Read in batches of rows, each one statement and so one consistent sight: what is posted meanwhile is no difference.
    """
    looked_at = 0
    found: list[Difference] = []
    for law in LAWS:
        for rows, differences in law():
            looked_at += rows
            found += differences
    for difference in found[: settings.BOOKS_CHECK_SHOWN]:
        log.error("the books differ: %s %s: %s", difference.law, difference.object, difference.text)
    # Done before on this day (by hand, or by another worker): the newer sight stands.
    check, _ = BooksCheck.objects.update_or_create(
        day=day,
        defaults={
            "finished_at": Now(),
            "rows": looked_at,
            "found": len(found),
            "differences": [asdict(difference) for difference in found[: settings.BOOKS_CHECK_SHOWN]],
        },
    )
    return check


Batch = tuple[int, list[Difference]]  # rows looked at, and what differs among them


def _postings_add_up() -> Iterator[Batch]:
    """Σ postings = 0 in each currency, added up from every posting there is: no cut or snapshot is believed."""
    rows = _read_all(
        """
        SELECT a.currency, count(*), sum(p.amount_minor) FROM payments_posting p
        JOIN payments_account a ON a.id = p.account_id GROUP BY 1
        """
    )
    yield (
        sum(count for _, count, _ in rows),
        [
            Difference("postings_add_up_to_zero", currency, f"they add up to {total} minor units")
            for currency, _, total in rows
            if total
        ],
    )


def _totals_are_the_postings() -> Iterator[Batch]:
    """The newest cut's totals are the sums of the postings before it."""
    rows = _read_all(
        """
        WITH cut AS (SELECT number, at FROM payments_bookcut ORDER BY number DESC LIMIT 1),
        kept AS (SELECT kind, currency, debit_minor, credit_minor FROM payments_kindtotal t JOIN cut ON number = cut_id),
        true_sum AS (
            SELECT a.kind, a.currency, sum(greatest(p.amount_minor, 0)) AS debit_minor,
                   sum(greatest(-p.amount_minor, 0)) AS credit_minor
            FROM cut, payments_posting p JOIN payments_account a ON a.id = p.account_id
            WHERE p.posted_at < cut.at GROUP BY 1, 2
        )
        SELECT kind, currency, kept.debit_minor, kept.credit_minor, true_sum.debit_minor, true_sum.credit_minor
        FROM kept FULL JOIN true_sum USING (kind, currency)
        """
    )
    yield (
        len(rows),
        [
            Difference("totals_are_the_postings", f"{kind} {currency}", f"kept {kept}, the postings say {summed}")
            for kind, currency, *sums in rows
            if (kept := sums[:2]) != (summed := sums[2:])
        ],
    )


def _snapshots_are_the_postings() -> Iterator[Batch]:
    """Each account's newest snapshot is the sum of its postings before it, and they are as many."""
    for accounts in _batches(Account):
        rows = _read_all(
            """
            SELECT a.id, last.at, last.balance_minor, last.postings, coalesce(total.minor, 0), total.lines
            FROM unnest(%s::uuid[]) AS a (id)
            CROSS JOIN LATERAL (
                SELECT s.* FROM payments_balancesnapshot s WHERE s.account_id = a.id ORDER BY s.at DESC LIMIT 1
            ) last
            CROSS JOIN LATERAL (
                SELECT sum(p.amount_minor) AS minor, count(*) AS lines FROM payments_posting p
                WHERE p.account_id = a.id AND p.posted_at < last.at
            ) total
            """,
            [account.pk for account in accounts],
        )
        yield (
            len(rows),
            [
                Difference(
                    "snapshots_are_the_postings",
                    str(account),
                    f"at {at:%Y-%m-%d %H:%M:%S} it says {balance} of {lines} lines, the postings {total} of {there}",
                )
                for account, at, balance, lines, total, there in rows
                if (balance, lines) != (total, there)
            ],
        )


def _kept_balances_are_the_postings() -> Iterator[Batch]:
    """A balance that an account's row keeps is the sum of its postings, credit positive."""
    for accounts in _batches(Account, kind__in=KEEPS_BALANCE):
        rows = _read_all(
            """
            SELECT a.customer, a.currency, a.balance_minor, coalesce(total.credit_minor, 0)
            FROM payments_account a
            CROSS JOIN LATERAL (
                SELECT -sum(p.amount_minor) AS credit_minor FROM payments_posting p WHERE p.account_id = a.id
            ) total
            WHERE a.id = ANY(%s) AND a.balance_minor <> coalesce(total.credit_minor, 0)
            """,
            [account.pk for account in accounts],
        )
        yield (
            len(accounts),
            [
                Difference(
                    "balances_are_the_postings",
                    f"customer {customer}",
                    f"the row says {kept} {currency}, the postings {total}",
                )
                for customer, currency, kept, total in rows
            ],
        )


# What the provider's clearing account, or our bank's, got and gave for some numbers, by the kind of entry, a reversal by
# the kind of what it takes back; debit positive.
_CLEARED = """
SELECT e.subject, CASE WHEN e.kind = 'reversal' THEN 'reversal of ' || old.kind ELSE e.kind END,
       sum(p.amount_minor)::bigint
FROM payments_journalentry e LEFT JOIN payments_journalentry old ON old.id = e.corrects_id
JOIN payments_posting p ON p.entry_id = e.id
JOIN payments_account a ON a.id = p.account_id AND a.kind IN ('provider_clearing', 'bank')
WHERE e.subject = ANY(%s) GROUP BY 1, 2
"""


def _captures_are_the_ledger() -> Iterator[Batch]:
    """What a payment says was captured is what its capture debited to clearing."""
    yield from _columns_are_the_ledger(
        Payment,
        "captured_is_the_ledger",
        """
        SELECT id, captured_minor, corrected_minor FROM payments_payment WHERE id = ANY(%s)
        """,
        lambda cleared: [cleared["capture"], cleared["correction"] + cleared["reversal of correction"]],
    )


def _refunds_are_the_ledger() -> Iterator[Batch]:
    """A refund that succeeded has left clearing once; one that did not, or failed later, has not left it."""
    yield from _columns_are_the_ledger(
        Refund,
        "refunded_is_the_ledger",
        """
        SELECT id, CASE WHEN status = 'succeeded' THEN amount_minor ELSE 0 END, corrected_minor
        FROM payments_refund WHERE id = ANY(%s)
        """,
        lambda cleared: [
            -cleared["refund"] - cleared["refund_failed_late"],
            -cleared["correction"] - cleared["reversal of correction"],
        ],
    )


def _refunded_sums_are_the_refunds() -> Iterator[Batch]:
    """What a payment says was refunded, is committed, and went beyond its capture, are the sums of its refunds."""
    for payments in _batches(Payment):
        rows = _read_all(
            """
            SELECT p.id, says, refunds FROM payments_payment p
            CROSS JOIN LATERAL (
                SELECT coalesce(sum(amount_minor) FILTER (WHERE status = 'succeeded'), 0) AS paid_minor,
                       coalesce(sum(amount_minor) FILTER (WHERE status NOT IN ('failed', 'cancelled')), 0) AS held_minor
                FROM payments_refund WHERE payment_id = p.id
            ) r
            CROSS JOIN LATERAL (
                SELECT ARRAY[p.refunded_minor, p.refunds_committed_minor, p.refunds_excess_minor] AS says,
                       ARRAY[least(paid_minor, card_minor), least(held_minor, card_minor),
                             greatest(held_minor - card_minor, 0)]::bigint[] AS refunds
                -- What of the capture was given back as store credit, no card can get.
                FROM (SELECT p.captured_minor
                             - greatest(p.credit_refunds_committed_minor - p.credit_captured_minor, 0) AS card_minor) c
            ) both_sides
            WHERE p.id = ANY(%s) AND says <> refunds
            """,
            [payment.pk for payment in payments],
        )
        yield (
            len(payments),
            [
                Difference("refunded_is_its_refunds", public_id(Payment.PREFIX, pk), f"it says {says}, they {refunds}")
                for pk, says, refunds in rows
            ],
        )


def _debts_are_the_ledger() -> Iterator[Batch]:
    """What payments say is owed to a customer is what the account of debts to that customer holds."""
    rows = _read_all(
        """
        SELECT customer, currency, coalesce(says.minor, 0), coalesce(posted.minor, 0)
        FROM (
            SELECT merchant_id, customer, currency, sum(refunds_owed_minor) AS minor FROM payments_payment
            WHERE refunds_owed_minor > 0 GROUP BY 1, 2, 3
        ) says
        FULL JOIN (
            SELECT a.merchant_id, a.customer, a.currency, -sum(p.amount_minor) AS minor
            FROM payments_account a JOIN payments_posting p ON p.account_id = a.id
            WHERE a.kind = 'refunds_owed' GROUP BY 1, 2, 3
        ) posted USING (merchant_id, customer, currency)
        """
    )
    yield (
        len(rows),
        [
            Difference("debts_are_the_ledger", f"customer {customer}", f"payments say {says} {currency}, not {posted}")
            for customer, currency, says, posted in rows
            if says != posted
        ],
    )


def _columns_are_the_ledger(
    model: type[Payment] | type[Refund],
    law: str,
    statement: str,
    by_ledger: Callable[[Counter[str]], list[int]],
) -> Iterator[Batch]:
    """Compare two columns (amount, corrections) with what the ledger says of each row."""
    for rows in _batches(model):
        numbers = [public_id(model.PREFIX, row.pk) for row in rows]
        # One sight of both tables: READ COMMITTED would let a capture commit between the two statements.
        with transaction.atomic(durable=True):
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            columns = _read_all(statement, [row.pk for row in rows])
            entries = _read_all(_CLEARED, numbers)
        cleared: dict[str, Counter[str]] = defaultdict(Counter)
        for number, kind, amount_minor in entries:
            cleared[number][kind] += amount_minor
        differences = []
        for pk, *says in columns:
            number = public_id(model.PREFIX, pk)
            posted = by_ledger(cleared[number])
            if says != posted:
                differences.append(Difference(law, number, f"it says {says}, the ledger {posted}"))
        yield len(rows), differences


LAWS: tuple[Callable[[], Iterator[Batch]], ...] = (
    _postings_add_up,
    _totals_are_the_postings,
    _snapshots_are_the_postings,
    _kept_balances_are_the_postings,
    _captures_are_the_ledger,
    _refunds_are_the_ledger,
    _refunded_sums_are_the_refunds,
    _debts_are_the_ledger,
)


def _batches(model: type[Any], **which: Any) -> Iterator[list[Any]]:
    """All rows (their keys alone) in the order of their keys, so many at once."""
    rows = model.objects.filter(**which).order_by("pk").only("pk")
    last: list[Any] = list(rows[: settings.BOOKS_CHECK_BATCH])
    while last:
        yield last
        last = list(rows.filter(pk__gt=last[-1].pk)[: settings.BOOKS_CHECK_BATCH])


def _read_all(statement: str, *parameters: Any) -> list[Any]:
    """In a transaction with the time that adding up everything takes."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = {settings.BOOKS_CHECK_STATEMENT_TIMEOUT_MS:d}")
        cursor.execute(statement, parameters or None)
        rows: list[Any] = cursor.fetchall()
    return rows


# --- Corrections --------------------------------------------------------------------------------------

# What a person may take back. The others are the business of payments, refunds and sagas, whose rows say the same as the
# ledger: a capture is taken back by a refund, a sale by cancelling its order, a fee by reconciliation.
REVERSIBLE = frozenset({"correction", "adjustment"})
# Between these a person may move an amount: no customer's, no merchant's, nothing that a refund or dispute counts on.
ADJUSTABLE = (
    Account.Kind.BANK,
    Account.Kind.UNALLOCATED_RECEIPTS,
    Account.Kind.FEES,
    Account.Kind.WRITE_OFFS,
    Account.Kind.ROUNDING,
)


def reverse_entry(entry_id: UUID, *, by: str, why: str) -> UUID:
    """Post the opposite of an entry, once; the new entry names the old one. Returns the new one's id.

    Reversed before: answers with the reversal of then. Raises NotFound, EntryNotReversible, AccountOverdrawn.
    """
    with transaction.atomic():
        entry = _entry(entry_id)
        if entry.kind not in REVERSIBLE:
            raise EntryNotReversible(
                f"A {entry.kind.replace('_', ' ')} is not taken back by hand: refund the payment, cancel the order, or "
                "resolve the discrepancy, and the books follow."
            )
        key = f"reversal:{entry.pk}"
        correct = _corrected_row(entry) if entry.kind == "correction" else None  # locked before any account
        lines = [(_key_of(one.account), -one.amount_minor) for one in entry.postings.select_related("account")]
        posted = ledger.post_lines(key=key, kind="reversal", lines=lines, **_about(entry), by=by, memo=why)
        if posted and correct:
            model, pk, sign = correct
            taken_back = sum(amount for account, amount in lines if account.kind == Account.Kind.PROVIDER_CLEARING)
            model.objects.filter(pk=pk).update(corrected_minor=F("corrected_minor") + sign * taken_back)
        return JournalEntry.objects.values_list("pk", flat=True).get(key=key)


def adjust_entry(entry_id: UUID, *, debit: str, credit: str, amount_minor: int, cause: str, by: str, why: str) -> UUID:
    """Move an amount between two accounts of ours (kinds of ADJUSTABLE) as a correction of an entry, whose currency it
    has. `cause` posts once. Returns the new entry's id. Raises NotFound, InvalidInput.
    """
    if not {debit, credit} <= set(ADJUSTABLE) or debit == credit:
        raise InvalidInput("A correction moves an amount between two different accounts of ours.")
    if amount_minor <= 0:
        raise InvalidInput("The amount of a correction is above zero: swap the accounts to move it the other way.")
    with transaction.atomic():
        entry = _entry(entry_id)
        require_money(entry.currency)  # loyalty points stand on none of our accounts
        key = f"adjustment:{cause}"
        ledger.post(
            key=key,
            kind="adjustment",
            debit=AccountKey(debit, entry.currency),
            credit=AccountKey(credit, entry.currency),
            amount_minor=amount_minor,
            **_about(entry),
            by=by,
            memo=why,
        )
        return JournalEntry.objects.values_list("pk", flat=True).get(key=key)


def _entry(entry_id: UUID) -> JournalEntry:
    entry = JournalEntry.objects.filter(pk=entry_id).first()
    if entry is None:
        raise NotFound
    return entry


def _about(entry: JournalEntry) -> dict[str, Any]:
    """What a correction takes over from the entry that it names."""
    return {
        "merchant_id": entry.merchant_id,
        "subject": entry.subject,
        "reference": entry.reference,
        "corrects": entry.pk,
    }


def _key_of(account: Account) -> AccountKey:
    return AccountKey(account.kind, account.currency, account.merchant_id, account.customer)


def _corrected_row(entry: JournalEntry) -> tuple[type[Payment] | type[Refund], UUID, int]:
    """The row whose `corrected_minor` follows a correction, locked, and the sign with which it does."""
    if entry.subject.startswith(Refund.PREFIX):
        refund, _ = lock_refund(Refund.id_of(entry.subject))
        return Refund, refund.pk, -1
    return Payment, lock_payment(Payment.id_of(entry.subject)).pk, 1
