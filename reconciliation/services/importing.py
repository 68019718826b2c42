"""Pulls the provider's books into our table: in batches, by upsert on the row's own id, in flat memory."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import date, datetime, timedelta
from functools import partial
from itertools import islice, takewhile
from time import sleep

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.db.models.functions import Least, Now

from foundation import throttle
from foundation.database import BECAUSE_OF_OTHERS, database_now, in_seconds, tried_again
from payments import selectors as payments
from payments.errors import ProviderRefused, ProviderUnavailable
from payments.types import BalanceTransaction
from reconciliation import matching
from reconciliation.models import TOLD_BY_A_FILE, ProviderRead, ProviderTransaction, RawRow

_PAGE_ROWS = 100  # of the provider's pages
# Of these the provider lists its rows: charges, refunds, disputes, payouts (https://docs.stripe.com/api/balance_transactions/list).
_LISTED_BY = ("ch_", "py_", "re_", "pyr_", "dp_", "du_", "po_")
Progress = Callable[[int], None]  # told how many rows were read so far

_REFRESHED = [
    field.name for field in ProviderTransaction._meta.fields if field.name not in ("id", "imported_at")
]  # fmt: skip


def read_window(day: date) -> tuple[datetime, datetime]:
    """What is read for a day: the day, the days before it whose rows may have come late, and the hour after it, in which a
    counterpart may have been booked."""
    since, until = matching.window(day)
    return (
        since - timedelta(days=settings.RECONCILE_TRAILING_DAYS),
        until + timedelta(seconds=settings.RECONCILE_TIMING_WINDOW_S),
    )


def import_day(day: date, *, progress: Progress) -> int:
    """Read the provider's books for a day (`read_window`). Returns how many rows were read.

    A reading that was cut short is gone on with where it stopped, unless that was long ago. Belongs outside of
    transactions. Raises ProviderUnavailable; what was read until then stays.
    """
    since, until = read_window(day)
    reading = _begin(since, until)
    try:
        return _read(reading, progress)
    except ProviderUnavailable as error:
        if not reading.reached or not isinstance(error.__cause__, ProviderRefused):
            raise
        # The row behind which we wanted to go on is not there any more.
        _give_up(reading)
        return _read(_begin(since, until), progress)


def _begin(since: datetime, until: datetime) -> ProviderRead:
    """The reading of a window that stopped half-way, or a new one."""
    open_ones = ProviderRead.objects.filter(since=since, until=until, finished_at__isnull=True)
    open_ones.filter(began_at__lt=in_seconds(-settings.RECONCILE_READ_RESUMED_FOR_S)).delete()
    reading, is_new = ProviderRead.objects.get_or_create(since=since, until=until, finished_at=None)
    if is_new:
        reading.refresh_from_db()  # PostgreSQL's clock says when it began
    elif reading.reached:
        ProviderRead.objects.filter(pk=reading.pk).update(resumed=F("resumed") + 1)
    return reading


def _give_up(reading: ProviderRead) -> None:
    ProviderRead.objects.filter(pk=reading.pk, finished_at__isnull=True).delete()


def _read(reading: ProviderRead, progress: Progress) -> int:
    """Newest first. What was booked since a reading was cut short stands before its first row: that is read before."""
    count = reading.rows
    if reading.reached:
        newer = payments.read_balance_transactions(since=reading.since, until=reading.until)
        first = ""
        for batch in _batches(takewhile(lambda row: row.id != reading.newest, newer)):
            upsert(batch)
            first = first or batch[0].id
            count += len(batch)
            progress(count)
        if first:
            ProviderRead.objects.filter(pk=reading.pk).update(newest=first)
    rows = payments.read_balance_transactions(since=reading.since, until=reading.until, after=reading.reached)
    newest = reading.newest
    for batch in _batches(rows):
        newest = newest or batch[0].id
        count += len(batch)
        _waited_for(partial(_store, reading, batch, newest=newest, count=count))
        progress(count)
    _waited_for(partial(_finish, reading, count=count))
    return count


def _waited_for(work: Callable[[], object]) -> None:
    """Do what a transaction does. Whoever takes in a statement file, or reads on behalf of somebody else, writes the same rows."""
    tried_again(work, after=BECAUSE_OF_OTHERS)


def _store(reading: ProviderRead, batch: list[BalanceTransaction], *, newest: str, count: int) -> None:
    """A batch, and how far it got."""
    with transaction.atomic():
        _write(batch)
        values = {"reached": batch[-1].id, "rows": count} | ({} if reading.reached else {"newest": newest})
        ProviderRead.objects.filter(pk=reading.pk).update(**values)


def _finish(reading: ProviderRead, *, count: int) -> None:
    with transaction.atomic():
        _withdraw(reading.since, reading.until, not_seen_since=reading.began_at)
        until = Least(
            F("until"), F("began_at")
        )  # of a day that is not over, only what was past then is sure to be read
        ProviderRead.objects.filter(pk=reading.pk, finished_at__isnull=True).update(
            finished_at=Now(), until=until, rows=count
        )


def _batches(rows: Iterator[BalanceTransaction]) -> Iterator[list[BalanceTransaction]]:
    """In batches of some of the provider's pages, and all readings together not faster than it allows."""
    while batch := list(islice(rows, settings.RECONCILE_IMPORT_BATCH)):
        yield batch
        _wait_for_turn(len(batch))


def _wait_for_turn(read: int) -> None:
    """So many rows were read: wait until as many may be read again. Counted in Redis, for whoever reads on whatever host; without it
    each reading keeps to the limit by itself."""
    rows_per_s = settings.RECONCILE_PAGES_PER_S * _PAGE_ROWS
    while (
        taken := throttle.take("provider_rows", per_second=rows_per_s, calls=min(read, rows_per_s))
    ) and not taken.passes:
        sleep(taken.wait_s)
    if taken is None:
        alone_s = read / rows_per_s
        sleep(alone_s)


def import_sources(sources: Iterable[str]) -> int:
    """Read again what the books say of some objects of the provider's. Belongs outside of transactions.

    It is not asked about anything else (`can_be_asked_about`): of what it cannot know, that it knows nothing is no news. Nor is it
    of what a file alone told. Raises ProviderUnavailable.
    """
    count = 0
    for source in filter(can_be_asked_about, sources):
        began_at = database_now()
        rows = payments.read_balance_transactions_of(source)
        upsert(rows)
        gone = ProviderTransaction.objects.filter(source=source, seen_at__lt=began_at, withdrawn_at__isnull=True)
        if not rows:
            gone = gone.exclude(status=TOLD_BY_A_FILE)
        _waited_for(partial(gone.update, withdrawn_at=Now()))
        count += len(rows)
    return count


def can_be_asked_about(source: str) -> bool:
    """Whether the provider lists rows by this: not a row that stands for itself (`txn_…`), nor one of a file that names no object."""
    return source.startswith(_LISTED_BY)


def upsert(rows: Iterable[BalanceTransaction]) -> None:
    """Write rows of the provider's books; one that is known already is brought up to date. Where somebody else writes them, again."""
    _waited_for(partial(_write, list(rows)))


def _write(rows: Iterable[BalanceTransaction]) -> None:
    now = database_now()
    # By rising id, as a statement file is kept: two who write the same rows wait for each other in one direction.
    read = [(row, as_read(row)) for row in sorted(rows, key=lambda row: row.id)]
    with transaction.atomic():
        RawRow.objects.bulk_create([RawRow(sha256=_hash(body), body=body) for _, body in read], ignore_conflicts=True)
        ProviderTransaction.objects.bulk_create(
            [_row(row, _hash(body), now) for row, body in read],
            update_conflicts=True,
            unique_fields=["id"],
            update_fields=_REFRESHED,
        )


def _withdraw(since: datetime, until: datetime, *, not_seen_since: datetime) -> None:
    """Rows of a window that a complete read did not bring any more are not matched any more. Rows of another source (our own
    layout of statement files, with ids of their own) it would never bring."""
    unseen = ProviderTransaction.objects.filter(
        created_at__gte=since, created_at__lt=until, seen_at__lt=not_seen_since, withdrawn_at__isnull=True
    )
    unseen.exclude(~Q(id__startswith="txn_"), status=TOLD_BY_A_FILE).update(withdrawn_at=Now())


def as_read(row: BalanceTransaction) -> str:
    """A row as it is kept and hashed: the provider's own words, or, of a row that bears none, what we know of it."""
    if row.raw:
        return row.raw
    known = {name: value for name, value in asdict(row).items() if name != "raw"}
    return json.dumps(known, default=str, sort_keys=True, ensure_ascii=False)


def _hash(body: str) -> bytes:
    return hashlib.sha256(body.encode()).digest()


def _row(row: BalanceTransaction, sha256: bytes, now: datetime) -> ProviderTransaction:
    return ProviderTransaction(
        id=row.id,
        type=row.type,
        reporting_category=row.reporting_category,
        source=row.source,
        amount_minor=row.amount_minor,
        fee_minor=row.fee_minor,
        net_minor=row.net_minor,
        currency=row.currency,
        status=row.status,
        created_at=row.created_at,
        available_at=row.available_at,
        payment_intent=row.payment_intent,
        charge=row.charge,
        source_status=row.source_status,
        order_reference=row.metadata.get("order", ""),
        payment_number=row.metadata.get("payment", ""),
        instance=row.metadata.get("instance", ""),
        sha256=sha256,
        seen_at=now,
        withdrawn_at=None,
    )
