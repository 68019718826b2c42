"""The links of the chain from an order to the bank, read from either book: what is ours, what the provider booked, payouts, bank lines."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

from django.db import connection
from django.db.models import Q, QuerySet

from foundation.errors import NotFound
from foundation.ids import parse_public_id, public_id
from payments.selectors import MOVEMENTS_VIEW, PAID_OUT_VIEW, PAYOUTS_AT_BANK_VIEW
from reconciliation.models import BankLine, BankMatch, Discrepancy, Link, Match, ProviderTransaction
from reconciliation.types import KINDS, Rule

_PREFIXES: Final[Mapping[str, str]] = {"charge": "pay", "refund": "ref", "dispute": "dsp", "payout": "pot"}
# Whose money moved: a fee or an adjustment stands for itself.
_OF_ORDERS: Final = ("charge", "refund", "dispute")
# What begins so is no payout, and is not looked for among them.
_NO_PAYOUTS: Final = {"ord", "pay", "ref", "dsp", "bnk", "dis", "pi", "ch", "py", "re", "dp", "txn"}


@dataclass(frozen=True, slots=True)
class Ours:
    """A payment, refund or dispute of ours. `number` is what people see; `reference` the order's number, as a rule."""

    kind: str
    id: UUID
    number: str
    reference: str
    source: str  # ch_…, re_…, dp_…; empty where the provider has not told it yet
    amount_minor: int  # positive
    currency: str
    status: str
    booked: bool  # whether the provider's books should hold it
    intent: str  # pi_…


@dataclass(frozen=True, slots=True)
class Booking:
    """The provider's, with its sign; net = gross − fee."""

    id: str
    category: str
    source: str
    gross_minor: int
    fee_minor: int
    net_minor: int
    currency: str
    at: datetime
    available_at: datetime | None = None

    @property
    def object(self) -> str:
        """What it moved money of; a row that names nothing stands for itself."""
        return self.source or self.id


@dataclass(frozen=True, slots=True)
class Payout:
    """A payout to our bank. `booked_minor` is what our ledger has there for it."""

    id: UUID
    source: str
    status: str
    amount_minor: int
    currency: str
    arrives_on: date
    trace_id: str
    automatic: bool
    booked_minor: int

    @property
    def number(self) -> str:
        return public_id("pot", self.id)


# --- Ours --------------------------------------------------------------------------------------------


def ours_of(text: str) -> list[Ours]:
    """All movements of the order that a number leads to; of one that belongs to no order, itself alone."""
    prefix = text.partition("_")[0]
    try:
        if prefix == "ord":
            return _ours("m.reference = %s", [text])
        if prefix in _PREFIXES.values():
            found = _ours("m.id = %s", [parse_public_id(prefix, text)])
        elif prefix == "txn":
            row = ProviderTransaction.objects.filter(pk=text).first()
            found = _of_object(row.source or row.pk) if row else []
        else:
            found = _of_object(text) or _ours("m.intent = %s AND m.kind = 'charge'", [text])
    except NotFound:
        return []
    references = sorted({one.reference for one in found if one.reference})
    return _ours("m.reference = ANY(%s)", [references]) if references else found


def _of_object(source: str) -> list[Ours]:
    """What stands beside an object of the provider's; else what we have of the order to which a run saw that it belongs."""
    if found := ours_beside([source])[0]:
        return found
    items = Discrepancy.objects.filter(fingerprint__in=[f"{kind}:{source}" for kind in KINDS]).exclude(
        order_reference=""
    )
    orders = sorted(set(items.values_list("order_reference", flat=True)))
    return _ours("m.reference = ANY(%s)", [orders]) if orders else []


def ours_beside(sources: Sequence[str]) -> tuple[list[Ours], dict[str, UUID]]:
    """The movements of ours that objects of the provider's are; and source → movement, where these bear another id than ours names."""
    if not sources:
        return [], {}
    objects = [f"{kind}:{source}" for kind in _OF_ORDERS for source in sources]
    other = _other_ids(Match.objects.filter(object__in=objects), Link.objects.filter(source__in=sources))
    found = _ours("m.source = ANY(%s)", [list(sources)])
    missing = list(set(other.values()) - {one.id for one in found})
    return found + (_ours("m.id = ANY(%s)", [missing]) if missing else []), other


def other_ids_of(ours: Sequence[Ours]) -> dict[str, UUID]:
    """Objects of the provider's that a rule or a person put beside movements of ours, which bear another id: source → movement."""
    ids = [one.id for one in ours]
    return _other_ids(Match.objects.filter(ours_id__in=ids), Link.objects.filter(ours_id__in=ids)) if ids else {}


def _other_ids(matches: QuerySet[Match], links: QuerySet[Link]) -> dict[str, UUID]:
    found = matches.exclude(rule=Rule.INTENT).exclude(rule=Rule.ID).values_list("object", "ours_id")
    of_persons = links.filter(ended_at=None).values_list("source", "ours_id")
    return {object_.partition(":")[2]: ours for object_, ours in found} | dict(of_persons)


def _ours(where: str, parameters: list[Any]) -> list[Ours]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT m.kind, m.id, m.reference, coalesce(m.source, ''), m.amount_minor, m.expected_minor, m.currency, m.status,"  # noqa: S608
            f" m.booked, coalesce(m.intent, '') FROM {MOVEMENTS_VIEW} m WHERE m.kind <> 'payout' AND ({where})"
            " ORDER BY m.occurred_at, m.id",
            parameters,
        )
        rows = cursor.fetchall()
    return [
        Ours(kind, id_, public_id(_PREFIXES[kind], id_), reference, source, amount or expected, *rest)
        for kind, id_, reference, source, amount, expected, *rest in rows
    ]


# --- The provider's ----------------------------------------------------------------------------------


def bookings_of(sources: Iterable[str]) -> list[Booking]:
    """All that moved under these objects, in its order. A row that names none is its own."""
    ids = set(sources)
    return [_booking(row) for row in _rows().filter(Q(source__in=ids) | Q(pk__in=ids))]


def bookings_called(text: str, *, limit: int) -> list[Booking]:
    """What bears a number that our books do not know: the row itself, or those of the object, and what belongs to it."""
    sources = {text, *_found_about(Q(intent=text) | Q(charge=text))}
    return [_booking(row) for row in _rows().filter(Q(pk=text) | Q(source__in=sources))[:limit]]


def unknown_of(ours: Sequence[Ours]) -> set[str]:
    """Objects that a run found beside what is ours, as a refund that somebody made at the provider's: ids there."""
    about = (
        Q(order_reference__in={one.reference for one in ours if one.reference})
        | Q(intent__in={one.intent for one in ours if one.intent})
        | Q(charge__in={one.source for one in ours if one.source and one.kind == "charge"})
    )
    return _found_about(about) if ours else set()


def _found_about(about: Q) -> set[str]:
    return set(Discrepancy.objects.filter(about, object_kind__in=_OF_ORDERS).values_list("source", flat=True))


def _rows() -> QuerySet[ProviderTransaction]:
    return ProviderTransaction.objects.filter(withdrawn_at=None).order_by("created_at", "id")


def _booking(row: ProviderTransaction) -> Booking:
    return Booking(
        row.pk,
        row.reporting_category,
        row.source,
        row.amount_minor,
        row.fee_minor,
        row.net_minor,
        row.currency,
        row.created_at,
        row.available_at,
    )


# --- Payouts and the bank ----------------------------------------------------------------------------


def find_payout(text: str) -> Payout | None:
    """By its number, the provider's, its booking there, or the trace id of the banks."""
    if text.startswith("pot_"):
        try:
            found = _payouts("id = %s", [parse_public_id("pot", text)])
        except NotFound:
            return None
    elif text.startswith("txn_"):
        row = ProviderTransaction.objects.filter(pk=text, source__startswith="po_").first()
        found = _payouts("source = %s", [row.source]) if row else {}
    elif not text or text.partition("_")[0] in _NO_PAYOUTS:
        return None
    else:
        found = _payouts("source = %s OR trace_id = %s", [text, text])
    return next(iter(found.values()), None)


def payouts(ids: Iterable[UUID]) -> dict[UUID, Payout]:
    """By their ids."""
    return _payouts("id = ANY(%s)", [sorted(ids)]) if ids else {}


def _payouts(where: str, parameters: list[Any]) -> dict[UUID, Payout]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, source, status, amount_minor, currency, arrives_on, trace_id, automatic, booked_minor"  # noqa: S608
            f" FROM {PAYOUTS_AT_BANK_VIEW} WHERE {where} ORDER BY id DESC",
            parameters,
        )
        return {row[0]: Payout(*row) for row in cursor.fetchall()}


def collected(payout: UUID, *, limit: int) -> tuple[list[Booking], int, int | None]:
    """What a payout collected: the first bookings, how many there are, and Σ net of all; None where that is not listed."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*), sum(net_minor)::bigint FROM {PAID_OUT_VIEW} WHERE payout_id = %s",  # noqa: S608
            [payout],
        )
        count, net_minor = cursor.fetchone()
        cursor.execute(
            "SELECT transaction, reporting_category, source, amount_minor, fee_minor, net_minor, currency, booked_at"  # noqa: S608
            f" FROM {PAID_OUT_VIEW} WHERE payout_id = %s ORDER BY booked_at, transaction LIMIT %s",
            [payout, limit],
        )
        return [Booking(*row) for row in cursor.fetchall()], count, net_minor


def paid_out_by(bookings: Sequence[Booking]) -> dict[str, Payout]:
    """txn_… → the payout that collected it."""
    if not bookings:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT transaction, payout_id FROM {PAID_OUT_VIEW} WHERE transaction = ANY(%s)",  # noqa: S608
            [[one.id for one in bookings]],
        )
        collected_by = dict(cursor.fetchall())
    known = payouts(set(collected_by.values()))
    return {booking: known[payout] for booking, payout in collected_by.items() if payout in known}


def find_line(text: str) -> BankLine | None:
    """By its number, or the bank's own reference where only one line has it."""
    if text.startswith("bnk_"):
        try:
            return BankLine.objects.filter(pk=BankLine.id_of(text)).first()
        except NotFound:
            return None
    found = list(BankLine.objects.filter(reference=text).exclude(reference="")[:2])
    return found[0] if len(found) == 1 else None


def lines_of(payout_ids: set[UUID]) -> dict[UUID, list[BankLine]]:
    """payout → its lines at the bank, in their order."""
    found: dict[UUID, list[BankLine]] = {}
    live = BankMatch.objects.filter(payout_id__in=payout_ids, ended_at=None).select_related("line")
    for match in live.order_by("line__booked_on", "line_id"):
        found.setdefault(match.payout_id, []).append(match.line)
    return found


def match_of(line: BankLine) -> BankMatch | None:
    """Why it is a payout's money."""
    return BankMatch.objects.filter(line=line, ended_at=None).first()


def payout_of(line: BankLine) -> Payout | None:
    """The payout that a line of the bank is."""
    match = match_of(line)
    return payouts([match.payout_id]).get(match.payout_id) if match else None
