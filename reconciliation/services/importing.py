"""Pulls the provider's books into our table: in batches, by upsert on the row's own id, in flat memory."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import date, datetime, timedelta
from itertools import islice

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from foundation.database import database_now
from payments import selectors as payments
from payments.types import BalanceTransaction
from reconciliation import matching
from reconciliation.models import ProviderTransaction

Progress = Callable[[int], None]  # told how many rows were read so far

_REFRESHED = [
    field.name for field in ProviderTransaction._meta.fields if field.name not in ("id", "imported_at")
]  # fmt: skip


def import_day(day: date, *, progress: Progress) -> int:
    """Read the books for a day, for the days before it whose rows may have come late, and for the hour after it, in
    which a counterpart may have been booked. Returns how many rows were read.

    Belongs outside of transactions. Raises ProviderUnavailable; what was read until then stays, and is read again.
    """
    since, until = matching.window(day)
    since -= timedelta(days=settings.RECONCILE_TRAILING_DAYS)
    until += timedelta(seconds=settings.RECONCILE_TIMING_WINDOW_S)
    began_at = database_now()
    count = 0
    rows = payments.read_balance_transactions(since=since, until=until)
    while batch := list(islice(rows, settings.RECONCILE_IMPORT_BATCH)):
        upsert(batch)
        count += len(batch)
        progress(count)
    _withdraw(since, until, not_seen_since=began_at)
    return count


def import_sources(sources: Iterable[str]) -> int:
    """Read again what the books say of some charges and refunds. Belongs outside of transactions.

    Raises ProviderUnavailable.
    """
    count = 0
    for source in sources:
        began_at = database_now()
        rows = payments.read_balance_transactions_of(source)
        upsert(rows)
        gone = ProviderTransaction.objects.filter(source=source, seen_at__lt=began_at, withdrawn_at__isnull=True)
        gone.update(withdrawn_at=Now())
        count += len(rows)
    return count


def upsert(rows: Iterable[BalanceTransaction]) -> None:
    """Write rows of the provider's books; one that is known already is brought up to date."""
    now = database_now()
    with transaction.atomic():
        ProviderTransaction.objects.bulk_create(
            [_row(row, now) for row in rows],
            update_conflicts=True,
            unique_fields=["id"],
            update_fields=_REFRESHED,
        )


def _withdraw(since: datetime, until: datetime, *, not_seen_since: datetime) -> None:
    """Rows of a window that a complete read did not bring any more are not matched any more."""
    ProviderTransaction.objects.filter(
        created_at__gte=since, created_at__lt=until, seen_at__lt=not_seen_since, withdrawn_at__isnull=True
    ).update(withdrawn_at=Now())


def _row(row: BalanceTransaction, now: datetime) -> ProviderTransaction:
    as_read = json.dumps(asdict(row), default=str, sort_keys=True, ensure_ascii=False)
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
        sha256=hashlib.sha256(as_read.encode()).digest(),
        seen_at=now,
        withdrawn_at=None,
    )
