"""What the provider said of a row of its books, word for word: an answer of its API, or a row of a statement file."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from reconciliation.models import ProviderTransaction, RawPage, RawRow
from reconciliation.pages import row_of


def told_of(rows: Iterable[ProviderTransaction]) -> Mapping[str, Mapping[str, Any]]:
    """Of each row, by its id: what it came as, by the names of the API or of the file's columns. Two queries, however many rows."""
    rows = list(rows)
    hashes = {bytes(row.sha256) for row in rows}
    answers = {bytes(raw.sha256): raw.body for raw in RawRow.objects.filter(pk__in=hashes)}
    pages = {bytes(page.sha256): bytes(page.body) for page in RawPage.objects.filter(pk__in=hashes)}
    return {
        row.pk: json.loads(answers[bytes(row.sha256)])
        if row.page_row is None
        else row_of(pages[bytes(row.sha256)], row.page_row)
        for row in rows
    }
