"""The provider's books as a statement file, in our own layout (docs/statement-files.md): what `import_statement` takes in."""

import csv
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from payments.sandbox.store import Json, Store

COLUMNS = (
    *("transaction", "created_at", "currency", "gross_minor", "fee_minor", "net_minor", "category", "source"),
    *("charge", "payment_intent", "status", "order", "payment", "instance"),
)


def write(store: Store, path: Path, *, since: datetime, until: datetime) -> int:
    """All rows of [since, until); how many."""
    count = 0
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row, about in _rows(store, int(since.timestamp()), int(until.timestamp())):
            writer.writerow(_cells(row, about))
            count += 1
    return count


def _rows(store: Store, since: int, until: int) -> Iterator[tuple[Json, Json]]:
    """Each with what it is about."""
    found = store.execute(
        "SELECT row.body, about.body FROM objects row LEFT JOIN objects about ON about.id = row.source"
        " WHERE row.kind = 'balance_transaction' AND row.created >= ? AND row.created < ?",
        (since, until),
    )
    for row, about in found:
        yield json.loads(row), json.loads(about) if about else {}


def _cells(row: Json, about: Json) -> list[object]:
    metadata = about.get("metadata") or {}
    source = row["source"] or ""
    return [
        row["id"],
        datetime.fromtimestamp(row["created"], UTC).isoformat(),
        row["currency"],
        *(row[name] for name in ("amount", "fee", "net", "reporting_category")),
        source,
        about.get("charge") or (source if source.startswith("ch_") else ""),
        about.get("payment_intent") or "",
        about.get("status", ""),
        *(metadata.get(name, "") for name in ("order", "payment", "instance")),
    ]
