"""What the provider said of a row of its books, in its own words: an answer of its API, or a row of a statement file."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from reconciliation.models import ProviderTransaction, RawPage, RawRow
from reconciliation.pages import rows_of


def told_of(rows: Iterable[ProviderTransaction]) -> Mapping[str, Mapping[str, Any]]:
    """Of each row, by its id: what it came as, by the names of the API or of the file's columns; without those that have no voucher.

    Two queries, however many rows; each page is unpacked once.
    """
    rows = list(rows)
    hashes = {bytes(row.sha256) for row in rows}
    answers = {bytes(raw.sha256): json.loads(raw.body) for raw in RawRow.objects.filter(pk__in=hashes)}
    pages = {bytes(page.sha256): list(rows_of(bytes(page.body))) for page in RawPage.objects.filter(pk__in=hashes)}
    told = {}
    for row in rows:
        sha256 = bytes(row.sha256)
        if sha256 in answers:
            told[row.pk] = answers[sha256]
        elif sha256 in pages and row.page_row:
            told[row.pk] = pages[sha256][row.page_row - 1]
    return told
