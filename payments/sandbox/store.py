"""The sandbox's storage: Stripe's objects as JSON in one SQLite table, with the columns that lists filter by.

One connection, used under the account's lock. A request's effects, its events, their deliveries and its idempotency record
commit together, so a SIGKILL at any point leaves either all of them or none.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Json = dict[str, Any]

# Fields of an object that get a column of their own; `payout` is ours (`_payout` in the body).
COLUMNS = (
    "status", "type", "currency", "customer", "payment_intent", "charge", "source", "payout",
    "amount", "fee", "net", "available_on",
)  # fmt: skip

SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    created INTEGER NOT NULL,
    status TEXT, type TEXT, currency TEXT, customer TEXT, payment_intent TEXT, charge TEXT, source TEXT, payout TEXT,
    amount INTEGER, fee INTEGER, net INTEGER, available_on INTEGER,
    body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS objects_newest_first ON objects (kind, created);
CREATE INDEX IF NOT EXISTS objects_by_source ON objects (source) WHERE source IS NOT NULL;
CREATE INDEX IF NOT EXISTS objects_by_payment_intent ON objects (payment_intent) WHERE payment_intent IS NOT NULL;
CREATE INDEX IF NOT EXISTS objects_by_charge ON objects (charge) WHERE charge IS NOT NULL;
CREATE INDEX IF NOT EXISTS objects_balance ON objects (currency, available_on, net, fee)
    WHERE kind = 'balance_transaction';

CREATE TABLE IF NOT EXISTS idempotency_keys (
    account TEXT NOT NULL, key TEXT NOT NULL,
    path TEXT NOT NULL, fingerprint TEXT NOT NULL,
    status INTEGER NOT NULL, body TEXT NOT NULL, request_id TEXT NOT NULL,
    saved_at REAL NOT NULL,
    PRIMARY KEY (account, key)
);
CREATE INDEX IF NOT EXISTS idempotency_keys_oldest_first ON idempotency_keys (saved_at);

-- Webhooks still to be sent. Times here are real ones, not the sandbox clock's.
CREATE TABLE IF NOT EXISTS deliveries (
    -- Never used again, so that a delivery on its way cannot be taken for another after a reset.
    seq INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL, due_at REAL NOT NULL,
    first_due_at REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (due_at, seq);
CREATE INDEX IF NOT EXISTS deliveries_by_event ON deliveries (event_id);

-- What happens by itself a little later: an asynchronous settlement, a refund that fails late.
CREATE TABLE IF NOT EXISTS jobs (seq INTEGER PRIMARY KEY, due_at REAL NOT NULL, name TEXT NOT NULL, object_id TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (due_at, seq);

CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class Store:
    def __init__(self, path: Path) -> None:
        """Raises OSError or sqlite3.Error when the file cannot be used, also when another sandbox has it open."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.2)
        # Exclusive: a second sandbox on the same file is refused, and SQLite needs no shared memory.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(SCHEMA)
        self.execute = self._db.execute

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")

    def forget_everything(self) -> None:
        for table in ("objects", "idempotency_keys", "deliveries", "jobs", "settings"):
            self.execute(f"DELETE FROM {table}")  # noqa: S608  (names of ours)

    # --- objects ------------------------------------------------------------------------------------

    def get(self, kind: str, object_id: str) -> Json | None:
        row = self.execute("SELECT body FROM objects WHERE id = ? AND kind = ?", (object_id, kind)).fetchone()
        return None if row is None else json.loads(row[0])

    def find(self, object_id: str) -> Json | None:
        """An object of whatever kind, as `source` of a balance transaction is."""
        row = self.execute("SELECT body FROM objects WHERE id = ?", (object_id,)).fetchone()
        return None if row is None else json.loads(row[0])

    def insert(self, obj: Json) -> None:
        self.execute(
            f"INSERT INTO objects (id, kind, created, {', '.join(COLUMNS)}, body)"  # noqa: S608  (names of ours)
            f" VALUES (?, ?, ?, {', '.join('?' * len(COLUMNS))}, ?)",
            (obj["id"], obj["object"], obj["created"], *_columns(obj), _encode(obj)),
        )

    def update(self, obj: Json) -> None:
        self.execute(
            f"UPDATE objects SET {', '.join(f'{name} = ?' for name in COLUMNS)}, body = ? WHERE id = ?",  # noqa: S608
            (*_columns(obj), _encode(obj), obj["id"]),
        )

    def delete(self, object_id: str) -> None:
        self.execute("DELETE FROM objects WHERE id = ?", (object_id,))

    def position(self, kind: str, object_id: str) -> tuple[int, int] | None:
        """Where an object stands in the lists of its kind: (created, seq)."""
        row: tuple[int, int] | None = self.execute(
            "SELECT created, seq FROM objects WHERE id = ? AND kind = ?", (object_id, kind)
        ).fetchone()
        return row

    def page(
        self,
        kind: str,
        *,
        equal: Mapping[str, str],
        created: Mapping[str, int],
        types: Sequence[str],
        older_than: tuple[int, int] | None,
        newer_than: tuple[int, int] | None,
        limit: int,
    ) -> list[Json]:
        """At most `limit` objects, newest first; `created` maps gt, gte, lt, lte to seconds."""
        where = ["kind = ?"]
        bind: list[Any] = [kind]
        for column, value in equal.items():
            where.append(f"{column} = ?")
            bind.append(value)
        for name, bound in created.items():
            where.append(f"created {_OPERATORS[name]} ?")
            bind.append(bound)
        if types:
            where.append(" OR ".join(["type GLOB ?"] * len(types)).join("()"))
            bind.extend(types)
        if older_than is not None:
            where.append("(created, seq) < (?, ?)")
            bind.extend(older_than)
        if newer_than is not None:
            where.append("(created, seq) > (?, ?)")
            bind.extend(newer_than)
        direction = "ASC" if newer_than is not None else "DESC"
        rows = self.execute(
            f"SELECT body FROM objects WHERE {' AND '.join(where)}"  # noqa: S608  (names of ours, values are bound)
            f" ORDER BY created {direction}, seq {direction} LIMIT ?",
            (*bind, limit),
        ).fetchall()
        found = [json.loads(row[0]) for row in rows]
        return found[::-1] if newer_than is not None else found

    def newest(self, kind: str, *statuses: str) -> Iterator[Json]:
        """All objects of a kind in one of the states, newest first. Write only after the iteration."""
        rows = self.execute(
            f"SELECT body FROM objects WHERE kind = ? AND status IN ({', '.join('?' * len(statuses))})"  # noqa: S608
            " ORDER BY created DESC, seq DESC",
            (kind, *statuses),
        )
        for (body,) in rows:
            yield json.loads(body)

    def first(self, kind: str, **equal: str) -> Json | None:
        """The newest object of a kind with these columns."""
        found = self.page(kind, equal=equal, created={}, types=(), older_than=None, newer_than=None, limit=1)
        return found[0] if found else None

    # --- settings -----------------------------------------------------------------------------------

    def read_setting(self, name: str, default: Any) -> Any:
        row = self.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

    def write_setting(self, name: str, value: Any) -> None:
        self.execute("INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)", (name, json.dumps(value)))


_encode = json.JSONEncoder(separators=(",", ":")).encode
_OPERATORS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def _columns(obj: Json) -> Iterator[str | int | None]:
    for name in COLUMNS:
        value = obj.get("_payout") if name == "payout" else obj.get(name)
        yield value if isinstance(value, (str, int)) else None
