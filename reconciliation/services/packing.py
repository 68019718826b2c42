"""Writes an auditor's pack of a closed month: what the chain says of it, as files that can be checked without us."""

import json
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from django.db import connection, transaction
from django.db.models import Q

from reconciliation import packs
from reconciliation.errors import PeriodIsOpen
from reconciliation.limits import set_for_long_work
from reconciliation.models import AuditBlock, AuditRow, Period, PeriodClosing
from reconciliation.services.chain import extend_chain
from reconciliation.states import PeriodState
from reconciliation.types import Audited, PackReport

_EPOCH = (1980, 1, 1, 0, 0, 0)  # a ZIP's first moment: the same pack is the same bytes, whenever it is written
_STREAMED = 2_000  # rows read at once


def write_pack(*, period: date, path: Path) -> PackReport:
    """Write the pack of a closed month; the chain is extended first. Belongs outside of transactions.

    Rows are streamed: memory does not grow with them. Raises PeriodIsOpen; OSError where the file cannot be written.
    """
    if Period.objects.filter(pk=period).exclude(state=PeriodState.OPEN).first() is None:
        raise PeriodIsOpen(f"{period:%Y-%m} is not closed: close it first.")
    extend_chain()
    with transaction.atomic(durable=True):  # one sight of all
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            set_for_long_work(cursor)
            # The file is written between two looks at the database.
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        unfinished = path.with_name(f"{path.name}.part")  # what stands under its name is whole
        try:
            with ZipFile(unfinished, "w", ZIP_DEFLATED) as archive:
                report = _write(archive, period, path)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        return report


def _write(archive: ZipFile, period: date, path: Path) -> PackReport:
    closing = PeriodClosing.objects.filter(period=period).latest("number")
    files: dict[str, tuple[int, str]] = {}

    def write(name: str, lines: Iterable[str]) -> None:
        entry = ZipInfo(name, _EPOCH)
        entry.compress_type = ZIP_DEFLATED
        entry.external_attr = 0o644 << 16
        with archive.open(entry, "w", force_zip64=True) as file:
            noted = packs.NotedFile(file)
            for line in lines:
                noted.write(line)
        files[name] = noted.noted

    newest = AuditBlock.objects.latest("number")
    head, name = bytes(newest.sha256).hex(), f"{period:%Y-%m}"
    headers = AuditBlock.objects.order_by("number").values_list("header", flat=True)
    write(packs.CHAIN, (f"{header}\n" for header in headers.iterator(_STREAMED)))
    for kind, file_name in packs.FILES.items():
        rows = AuditRow.objects.filter(_scope(kind, closing), block__kind=kind).order_by("block_id", "position")
        write(file_name, (f"{body}\n" for body in rows.values_list("body", flat=True).iterator(_STREAMED)))
    write(packs.STATEMENT_CSV, [packs.statement_csv(_statements(closing))])
    write(packs.README, [packs.readme(name, head)])
    ordered = {name: files[name] for name in packs.NAMES if name in files}
    write(packs.MANIFEST, [packs.manifest(name, head, newest.number, ordered)])
    return PackReport(str(path), sum(files[file][0] for file in packs.FILES.values()), newest.number, head)


def _scope(kind: str, closing: PeriodClosing) -> Q:
    """`packs.Scope.holds`, asked of the database."""
    own = Q(block__period=closing.period_id)
    if kind in (Audited.CLOSING, Audited.STATEMENT):
        return own
    late = Q(block__period__lt=closing.period_id, block__number__gt=closing.after)
    return (own | late) & Q(block__number__lte=closing.head)


def _statements(closing: PeriodClosing) -> list[dict[str, Any]]:
    """As they were chained."""
    rows = AuditRow.objects.filter(object__startswith=f"statement:{closing.pk}:").values_list("body", flat=True)
    return [json.loads(body) for body in rows]
