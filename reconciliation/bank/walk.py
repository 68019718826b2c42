"""Follows money from an order to the bank, and back: order → payment or refund → the provider's booking → payout → bank line.

Whatever it is entered by, one thing comes out: a list of bookings, each with all its legs, the amounts there, and where the
chain is broken. From an order these are all bookings of its payments, refunds and disputes; from a payout or a bank line, all
that the payout collected.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import Q

from foundation.database import database_now
from foundation.errors import NotFound
from foundation.ids import parse_public_id, public_id
from payments.selectors import MOVEMENTS_VIEW, PAID_OUT_VIEW, PAYOUTS_AT_BANK_VIEW
from reconciliation.models import BankLine, BankMatch, BankStatement, ProviderTransaction

SHOWN: Final = 100  # bookings of one payout that are shown; its sums are of all of them
# Objects that stand for a customer's money: our books have to know them. Others (a fee, an adjustment) stand for themselves.
_MOVED_FOR_SOMEBODY: Final = ("ch_", "py_", "re_", "pyr_", "dp_", "du_")
_PREFIXES: Final[Mapping[str, str]] = {"charge": "pay", "refund": "ref", "dispute": "dsp", "payout": "pot"}
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


class Ending:
    """How a chain ends that is not whole."""

    BROKEN: Final = "broken"  # somebody has to do something
    WAITS: Final = "waits"  # for a day, or for a statement
    NOTHING: Final = "nothing"  # no money moved


@dataclass(frozen=True, slots=True)
class Break:
    """Where a chain ends: at which leg, how, and in a sentence."""

    leg: str  # payment, booking, payout, bank
    how: str  # of Ending
    says: str


@dataclass(frozen=True, slots=True)
class Link:
    """One booking with all its legs, as far as they are there."""

    ours: Ours | None
    booking: Booking | None
    payout: Payout | None
    lines: Sequence[BankLine]
    break_: Break | None


@dataclass(slots=True)
class Walk:
    """What a search came to. Empty where nothing is called so."""

    text: str
    links: list[Link] = field(default_factory=list)
    payout: Payout | None = None  # what it was entered by, where that was a payout or its line
    line: BankLine | None = None
    lines: Sequence[BankLine] = ()  # of that payout
    collected_minor: int | None = None  # Σ net of all that the payout collected; None where that is not listed
    collected: int = 0  # how many bookings those are

    @property
    def is_empty(self) -> bool:
        return not self.links and self.payout is None and self.line is None


def follow(text: str) -> Walk:
    """Walk from anything that has a number: an order, payment, refund, dispute, payout, bank line; the provider's pi_…, ch_…,
    re_…, dp_…, txn_…, po_…; a trace id, or the bank's own reference.
    """
    walk = Walk(text)
    if not text:
        return walk
    walk.line = find_line(text)
    walk.payout = _payout_of_line(walk.line) if walk.line else find_payout(text)
    if walk.line or walk.payout:
        _add_collected(walk)
    else:
        _add_order(walk)
    return walk


def find_payout(text: str) -> Payout | None:
    """By its number, the provider's, or the trace id of the banks."""
    if text.startswith("pot_"):
        try:
            found = _payouts("id = %s", [parse_public_id("pot", text)])
        except NotFound:
            return None
    elif not text or text.partition("_")[0] in _NO_PAYOUTS:
        return None
    else:
        found = _payouts("source = %s OR trace_id = %s", [text, text])
    return next(iter(found.values()), None)


def find_line(text: str) -> BankLine | None:
    """By its number, or the bank's own reference where only one line has it."""
    if text.startswith("bnk_"):
        try:
            return BankLine.objects.filter(pk=BankLine.id_of(text)).first()
        except NotFound:
            return None
    found = list(BankLine.objects.filter(reference=text).exclude(reference="")[:2])
    return found[0] if len(found) == 1 else None


def payout_of(line: BankLine) -> Payout | None:
    """The payout that a line of the bank is."""
    return _payout_of_line(line)


def match_of(line: BankLine) -> BankMatch | None:
    """Why it is that payout."""
    return BankMatch.objects.filter(line=line, ended_at=None).first()


def payouts(ids: Sequence[UUID]) -> dict[UUID, Payout]:
    """By their ids."""
    return _payouts("id = ANY(%s)", [list(ids)]) if ids else {}


# --- The two directions ------------------------------------------------------------------------------


def _add_order(walk: Walk) -> None:
    """Forwards: all that moved for an order, or for whatever else the number means."""
    ours = _ours_of(walk.text)
    sources = [one.source for one in ours if one.source]
    rows = ProviderTransaction.objects.filter(withdrawn_at=None).order_by("created_at", "id")
    if ours:
        bookings = [_booking(row) for row in rows.filter(source__in=sources)] if sources else []
    else:
        bookings = [_booking(row) for row in rows.filter(Q(pk=walk.text) | Q(source=walk.text))[:SHOWN]]
    paid_by = _paid_out_by([one.id for one in bookings])
    known = payouts(list(set(paid_by.values())))
    of_payouts = {booking: known[payout] for booking, payout in paid_by.items() if payout in known}
    walk.links = _linked(ours, bookings, of_payouts)


def _add_collected(walk: Walk) -> None:
    """Backwards: all that a payout collected, and whose it was."""
    if walk.payout is None:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*), sum(net_minor)::bigint FROM {PAID_OUT_VIEW} WHERE payout_id = %s",  # noqa: S608
            [walk.payout.id],
        )
        walk.collected, walk.collected_minor = cursor.fetchone()
        cursor.execute(
            "SELECT transaction, reporting_category, source, amount_minor, fee_minor, net_minor, currency, booked_at"  # noqa: S608
            f" FROM {PAID_OUT_VIEW} WHERE payout_id = %s ORDER BY booked_at, transaction LIMIT {SHOWN}",
            [walk.payout.id],
        )
        bookings = [Booking(*row) for row in cursor.fetchall()]
    walk.lines = _lines_of({walk.payout.id}).get(walk.payout.id, [])
    ours = _ours("m.source = ANY(%s)", [[one.source for one in bookings]]) if bookings else []
    walk.links = _linked(ours, bookings, dict.fromkeys((one.id for one in bookings), walk.payout))
    if not bookings:  # made by hand, or not listed yet
        ending = _Judge({walk.payout.currency}).at_bank(walk.payout, walk.lines)
        walk.links = [Link(None, None, walk.payout, walk.lines, ending)]


def _linked(ours: Sequence[Ours], bookings: Sequence[Booking], of_payouts: Mapping[str, Payout]) -> list[Link]:
    """Each booking with its movement, payout and lines; and each movement that has no booking."""
    lines = _lines_of({one.id for one in of_payouts.values()})
    judge = _Judge({one.currency for one in of_payouts.values()})
    by_source = {one.source: one for one in ours if one.source}
    links = []
    for booking in bookings:
        payout = of_payouts.get(booking.id)
        mine = by_source.get(booking.source)
        of_payout = lines.get(payout.id, []) if payout else []
        links.append(Link(mine, booking, payout, of_payout, judge.of(mine, booking, payout, of_payout)))
    booked = {booking.source for booking in bookings}
    links += [
        Link(one, None, None, [], judge.of(one, None, None, []))
        for one in ours
        if not one.source or one.source not in booked
    ]
    return links


class _Judge:
    """Says where a chain is broken."""

    def __init__(self, currencies: set[str]) -> None:
        self.now = database_now()
        reach = BankStatement.objects.filter(currency__in=currencies)
        self.told = set(reach.values_list("currency", flat=True).distinct())

    def of(
        self, ours: Ours | None, booking: Booking | None, payout: Payout | None, lines: Sequence[BankLine]
    ) -> Break | None:
        if booking is None:
            if ours and ours.booked:
                return Break("booking", Ending.BROKEN, "Stripe's books, as read so far, do not hold it")
            return Break(
                "payment", Ending.NOTHING, f"it is {ours.status.replace('_', ' ')}: no money moved" if ours else ""
            )
        if ours is None and booking.source.startswith(_MOVED_FOR_SOMEBODY):
            return Break("payment", Ending.BROKEN, "our books do not hold it")
        if payout is None:
            ready = booking.available_at is None or booking.available_at <= self.now
            says = "not paid out yet" if ready else f"available from {booking.available_at:%d %b %Y}"
            return Break("payout", Ending.WAITS, says)
        return self.at_bank(payout, lines)

    def at_bank(self, payout: Payout, lines: Sequence[BankLine]) -> Break | None:
        is_late = self.now.date() > payout.arrives_on + timedelta(days=settings.BANK_LATE_DAYS)
        broken_if_late = Ending.BROKEN if is_late else Ending.WAITS
        if payout.status in ("pending", "in_transit") and not lines:
            return Break("bank", broken_if_late, f"on its way, expected on {payout.arrives_on:%d %b %Y}")
        if payout.status in ("failed", "cancelled") and not lines:
            return Break("payout", Ending.WAITS, "the payout came back: what it collected goes out with another one")
        if not lines and payout.currency not in self.told:
            says = f"no statement of a bank in {payout.currency.upper()} was taken in yet"
            return Break("bank", Ending.WAITS, says)
        if not lines:
            return Break("bank", broken_if_late, "the bank's statements do not hold it" + ("" if is_late else " yet"))
        got = sum(line.amount_minor for line in lines)
        if got != payout.booked_minor or any(line.currency != payout.currency for line in lines):
            return Break("bank", Ending.BROKEN, "the bank got another amount than our books say")
        return None


# --- Reading -----------------------------------------------------------------------------------------


def _ours_of(text: str) -> list[Ours]:
    """All movements of the order that a number leads to; of one that belongs to no order, itself alone."""
    prefix = text.partition("_")[0]
    try:
        if prefix == "ord":
            return _ours("m.reference = %s", [text])
        if prefix in _PREFIXES.values():
            found = _ours("m.id = %s", [parse_public_id(prefix, text)])
        elif prefix == "txn":
            row = ProviderTransaction.objects.filter(pk=text).first()
            found = _ours("m.source = %s", [row.source]) if row and row.source else []
        else:
            found = _ours("m.source = %s", [text]) or _ours("m.intent = %s AND m.kind = 'charge'", [text])
    except NotFound:
        return []
    references = sorted({one.reference for one in found if one.reference})
    return _ours("m.reference = ANY(%s)", [references]) if references else found


def _ours(where: str, parameters: list[Any]) -> list[Ours]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT m.kind, m.id, m.reference, coalesce(m.source, ''), m.amount_minor, m.expected_minor, m.currency, m.status,"  # noqa: S608
            f" m.booked FROM {MOVEMENTS_VIEW} m WHERE m.kind <> 'payout' AND ({where}) ORDER BY m.occurred_at, m.id",
            parameters,
        )
        rows = cursor.fetchall()
    return [
        Ours(
            kind, id_, public_id(_PREFIXES[kind], id_), reference, source, amount or expected, currency, status, booked
        )
        for kind, id_, reference, source, amount, expected, currency, status, booked in rows
    ]


def _payouts(where: str, parameters: list[Any]) -> dict[UUID, Payout]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, source, status, amount_minor, currency, arrives_on, trace_id, automatic, booked_minor"  # noqa: S608
            f" FROM {PAYOUTS_AT_BANK_VIEW} WHERE {where} ORDER BY id DESC",
            parameters,
        )
        return {row[0]: Payout(*row) for row in cursor.fetchall()}


def _paid_out_by(bookings: Sequence[str]) -> dict[str, UUID]:
    """txn_… → the payout that collected it."""
    if not bookings:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT transaction, payout_id FROM {PAID_OUT_VIEW} WHERE transaction = ANY(%s)",  # noqa: S608
            [list(bookings)],
        )
        return dict(cursor.fetchall())


def _lines_of(payout_ids: set[UUID]) -> dict[UUID, list[BankLine]]:
    """payout → its lines at the bank, in their order."""
    found: dict[UUID, list[BankLine]] = {}
    live = BankMatch.objects.filter(payout_id__in=payout_ids, ended_at=None).select_related("line")
    for match in live.order_by("line__booked_on", "line_id"):
        found.setdefault(match.payout_id, []).append(match.line)
    return found


def _payout_of_line(line: BankLine) -> Payout | None:
    match = match_of(line)
    return payouts([match.payout_id]).get(match.payout_id) if match else None


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
