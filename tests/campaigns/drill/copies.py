"""Multiplies transactions in both books at once: the same rows, with ids and moments of their own.

An original is read once as text, row by row, and cut where an id or a moment stands; a copy is that text with other ids and
moments between the cuts. Ours is written by COPY, the provider's by one INSERT a batch. Triggers are off meanwhile: they
would date every entry to this minute, and look at each row that the product itself has written a moment before.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection, models, transaction
from django.db.models import Q, QuerySet

from foundation.database import database_now
from foundation.ids import public_id, uuid7
from inventory.models import StockHold, StockMovement
from orders.models import Order, OrderHistory, OrderItem
from payments.models import (
    Dispute,
    DisputeHistory,
    JournalEntry,
    Payment,
    PaymentHistory,
    Payout,
    PayoutHistory,
    PayoutTransaction,
    Posting,
    Refund,
    RefundHistory,
)
from payments.sandbox.account import Account, Config
from payments.sandbox.store import COLUMNS, Store
from tests.campaigns.drill.originals import Original
from tests.sandbox_process import SandboxProcess

_BATCH = 2000  # copies written at once
_OBJECTS = ("id", "kind", "created", *COLUMNS, "body")
_CELL, _ROW, _NULL = "\x1f", "\x1e", "\\N"
_MOMENT = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?\+00"  # as PostgreSQL writes it
_SECONDS = r"(?<![0-9a-zA-Z_.])\d{10}(?!\d)"  # as the provider does
_IN_STOCK = """
UPDATE inventory_stock s SET
    reserved = (SELECT coalesce(sum(h.reserved), 0) FROM inventory_stockhold h WHERE h.product_id = s.product_id),
    on_hand = (SELECT coalesce(sum(m.on_hand_change), 0) FROM inventory_stockmovement m WHERE m.product_id = s.product_id)
"""


@contextmanager
def provider(sandbox: SandboxProcess) -> Iterator[Account]:
    """The account of a sandbox that is stopped: its storage can be written like a book that lies open."""
    store = Store(sandbox.storage)
    try:
        yield Account(store, Config())
    finally:
        store.close()


@contextmanager
def without_triggers() -> Iterator[Any]:
    """A cursor that writes what is asked, past every trigger and foreign key: as a superuser may, and nobody else."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica; SET LOCAL statement_timeout = 0")
        cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")  # the other book takes its time
        yield cursor


@dataclass
class Copy:
    """One transaction more. `names`: the original's ids and numbers → its own, kept where somebody will ask for them."""

    mould: "Mould"
    at: datetime  # by the provider's clock
    names: dict[str, str] = field(default_factory=dict)

    def __getattr__(self, role: str) -> str:
        """`copy.payment`, `copy.charge` …: the first object of that role."""
        return self.names[self.mould.roles[role]]


@dataclass(frozen=True)
class Clocks:
    """When the originals were made: by the provider's clock, which was turned back, and by ours."""

    theirs: datetime
    ours: datetime
    until: datetime  # ours, when all had been made

    def of(self, moment: datetime) -> datetime | None:
        """A moment of a trade by the provider's clock; None: it is none (the end of a lease, a due date)."""
        if self.ours - timedelta(seconds=1) <= moment <= self.until:
            return moment - self.ours + self.theirs
        if (
            self.theirs - timedelta(seconds=5)
            <= moment
            <= self.theirs + (self.until - self.ours) + timedelta(seconds=5)
        ):
            return moment
        return None


class Mould:
    """An original, cut into what stays and what each copy has of its own."""

    def __init__(self, original: Original, store: Store, clocks: Clocks) -> None:
        self.original = original
        self.clocks = clocks
        self.roles: dict[str, str] = {}
        self._uuids: list[tuple[str, str, str]] = []  # (id, prefix of its number, number)
        rows = self._our_rows()
        theirs = self._their_rows(store)
        self._moments: dict[str, datetime] = {}
        names = sorted([*(name for one in self._uuids for name in (one[0], one[2]) if name), *self._references])
        self._cut = re.compile("|".join([*map(re.escape, names), _MOMENT, _SECONDS]))
        self._names = set(names)
        self.tables = {table: self._parts(text) for table, text in rows.items()}
        self.objects = self._parts(theirs)
        self._first = min(self._moments.values()).replace(microsecond=0)
        self.rows = sum(text.count("\n") for text in rows.values()) + theirs.count(_ROW)

    def named(self, place: int) -> dict[str, str]:
        """Every id of the original → a copy's own."""
        names = {
            reference: f"{reference.partition('_')[0]}_{place:012x}{number:012x}"
            for number, reference in enumerate(self._references)
        }
        for old, prefix, number in self._uuids:
            new = uuid7()
            names[old] = str(new)
            if prefix:
                names[number] = public_id(prefix, new)
        return names

    def moved(self, at: datetime) -> dict[str, str]:
        """Every moment of the original → a copy's that happened at `at`."""
        by = at - self._first
        return {
            text: str(int((moment + by).timestamp())) if text.isdigit() else (moment + by).isoformat(sep=" ")
            for text, moment in self._moments.items()
        }

    def _our_rows(self) -> dict[str, str]:
        """Table and columns → its rows of this original, as COPY writes them."""
        orders = [Order.id_of(number) for number in self.original.orders]
        payments = Payment.objects.filter(reference__in=self.original.orders).order_by("id")
        refunds = Refund.objects.filter(payment__in=payments).order_by("id")
        disputes = Dispute.objects.filter(payment__in=payments).order_by("id")
        payouts = Payout.objects.filter(provider_reference__in=self.original.payouts)
        entries = JournalEntry.objects.filter(
            Q(reference__in=self.original.orders) | Q(subject__in=[payout.number for payout in payouts])
        )
        holds = StockHold.objects.filter(reference__in=self.original.orders)
        movements = StockMovement.objects.filter(reference__in=self.original.orders)
        numbered: list[QuerySet[Any]] = [Order.objects.filter(pk__in=orders), payments, refunds, disputes, payouts]
        for found in numbered:
            for row in found:
                self._uuids.append((str(row.pk), row.PREFIX, row.number))
                name = str(row._meta.model_name)
                self.roles.setdefault(name, row.number)
                self.roles.setdefault(f"{name}_id", str(row.pk))
        for found in (entries, holds, movements):
            self._uuids += [(str(pk), "", "") for pk in found.values_list("pk", flat=True)]
        self._intents = [str(one.provider_reference) for one in payments if one.provider_reference]
        everything: list[QuerySet[Any]] = [
            *(*numbered, entries, holds, movements),
            OrderItem.objects.filter(order__in=orders),
            OrderHistory.objects.filter(subject__in=orders),
            PaymentHistory.objects.filter(subject__in=payments),
            RefundHistory.objects.filter(subject__in=refunds),
            DisputeHistory.objects.filter(subject__in=disputes),
            PayoutHistory.objects.filter(subject__in=payouts),
            PayoutTransaction.objects.filter(payout__in=payouts),
            Posting.objects.filter(entry__in=entries),
        ]
        return {_table(found.model): text for found in everything if (text := _as_copied(found))}

    def _their_rows(self, store: Store) -> str:
        """The provider's objects of this original; they give the roles and the references as well."""
        intents = _marks(self._intents)
        about = store.execute(
            f"SELECT id FROM objects WHERE id IN ({intents}) OR payment_intent IN ({intents})"
            f" AND kind IN ('charge', 'refund', 'dispute') OR id IN ({_marks(self.original.payouts)}) ORDER BY seq",
            (*self._intents, *self._intents, *self.original.payouts),
        ).fetchall()
        ids = [one for (one,) in about]
        rows = store.execute(
            f"SELECT {', '.join(_OBJECTS)} FROM objects WHERE id IN ({_marks(ids)})"
            f" OR source IN ({_marks(ids)}) AND kind = 'balance_transaction' ORDER BY seq",
            (*ids, *ids),
        ).fetchall()
        self._references = [str(row[0]) for row in rows]
        for row in rows:
            failed = row[1] == "charge" and row[_OBJECTS.index("status")] == "failed"
            role = f"provider_{row[1]}" if row[1] in self.roles else str(row[1])
            if not failed:
                self.roles.setdefault(role, str(row[0]))
        return "".join(_CELL.join(_NULL if cell is None else str(cell) for cell in row) + _ROW for row in rows)

    def _parts(self, text: str) -> list[str]:
        """What stays, and in every second place an id or a moment that does not."""
        parts, end = [], 0
        for found in self._cut.finditer(text):
            token = found.group()
            if token not in self._names:
                moment = datetime.fromtimestamp(int(token), UTC) if token.isdigit() else datetime.fromisoformat(token)
                traded_at = self.clocks.of(moment)
                if traded_at is None:
                    continue
                self._moments[token] = traded_at
            parts += [text[end : found.start()], token]
            end = found.end()
        return [*parts, text[end:]]


def multiply(copies: Sequence[Copy], account: Account) -> int:
    """Write copies into both books; how many rows that were. Those that already have names keep them."""
    written = 0
    insert = f"INSERT INTO objects ({', '.join(_OBJECTS)}) VALUES ({_marks(_OBJECTS)})"
    with without_triggers() as cursor, account.transaction():
        for start in range(0, len(copies), _BATCH):
            ours: dict[str, list[str]] = defaultdict(list)
            theirs: list[list[str | None]] = []
            for place, copy in enumerate(copies[start : start + _BATCH], start + 1):
                mould = copy.mould
                values = (copy.names or mould.named(place)) | mould.moved(copy.at)
                for table, parts in mould.tables.items():
                    ours[table].append(_filled(parts, values))
                for row in _filled(mould.objects, values).split(_ROW)[:-1]:
                    theirs.append([None if cell == _NULL else cell for cell in row.split(_CELL)])
                written += mould.rows
            for table, texts in ours.items():
                with cursor.copy(f"COPY {table} FROM STDIN") as writing:
                    writing.write("".join(texts))
            account.store._db.executemany(insert, theirs)
        cursor.execute(_IN_STOCK)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return written


def moulds(originals: Iterable[Original], store: Store, *, theirs: datetime, ours: datetime) -> list[Mould]:
    """`theirs`, `ours`: the moment at which the trade began, by both clocks."""
    clocks = Clocks(theirs, ours, database_now())
    return [Mould(original, store, clocks) for original in originals]


def _filled(parts: list[str], values: Mapping[str, str]) -> str:
    filled = parts.copy()
    filled[1::2] = [values[token] for token in parts[1::2]]
    return "".join(filled)


def _table(model: type[models.Model]) -> str:
    return f"{model._meta.db_table} ({', '.join(_columns(model))})"


def _columns(model: type[models.Model]) -> list[str]:
    """All but those that the database counts."""
    return [str(one.column) for one in model._meta.concrete_fields if not isinstance(one, models.AutoField)]


def _as_copied(found: QuerySet[Any]) -> str:
    keys = ", ".join(f"'{pk}'" for pk in found.values_list("pk", flat=True))
    if not keys:
        return ""
    model = found.model
    query = f"SELECT {', '.join(_columns(model))} FROM {model._meta.db_table} WHERE {model._meta.pk.column} IN ({keys})"
    with connection.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT") as reading:
        return b"".join(map(bytes, reading)).decode()


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
