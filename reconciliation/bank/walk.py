"""Follows money from an order to the bank, and back: order → payment or refund → the provider's booking → payout → bank line.

Whatever it is entered by, one thing comes out: a list of bookings, each with all its legs, the amounts there, and where the
chain is broken. From an order these are all bookings of its payments, refunds and disputes, and what a run found beside them; from
a payout or a bank line, all that the payout collected.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

from django.conf import settings

from foundation.database import database_now
from reconciliation.bank import chain
from reconciliation.bank.chain import Booking, Ours, Payout
from reconciliation.models import BankLine, BankStatement

SHOWN: Final = 100  # bookings of one payout that are shown; its sums are of all of them
# Objects that stand for a customer's money: our books have to know them. Others (a fee, an adjustment) stand for themselves.
_MOVED_FOR_SOMEBODY: Final = ("ch_", "py_", "re_", "pyr_", "dp_", "du_")


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
    walk.line = chain.find_line(text)
    walk.payout = chain.payout_of(walk.line) if walk.line else chain.find_payout(text)
    if walk.line or walk.payout:
        _add_collected(walk)
    else:
        _add_order(walk)
    return walk


def _add_order(walk: Walk) -> None:
    """Forwards: all that moved for an order, or for whatever else the number means."""
    ours = chain.ours_of(walk.text)
    other_ids = chain.other_ids_of(ours)
    if ours:
        own = {one.source for one in ours if one.source}
        bookings = chain.bookings_of(own | set(other_ids) | chain.unknown_of(ours))
    else:
        bookings = chain.bookings_called(walk.text, limit=SHOWN)
    walk.links = _linked(ours, other_ids, bookings, chain.paid_out_by(bookings))


def _add_collected(walk: Walk) -> None:
    """Backwards: all that a payout collected, and whose it was."""
    if walk.payout is None:
        return
    bookings, walk.collected, walk.collected_minor = chain.collected(walk.payout.id, limit=SHOWN)
    walk.lines = chain.lines_of({walk.payout.id}).get(walk.payout.id, [])
    ours, other_ids = chain.ours_beside([one.object for one in bookings])
    walk.links = _linked(ours, other_ids, bookings, dict.fromkeys((one.id for one in bookings), walk.payout))
    if not bookings:  # made by hand, or not listed yet
        ending = _Judge({walk.payout.currency}).at_bank(walk.payout, walk.lines)
        walk.links = [Link(None, None, walk.payout, walk.lines, ending)]


def _linked(
    ours: Sequence[Ours], other_ids: Mapping[str, UUID], bookings: Sequence[Booking], of_payouts: Mapping[str, Payout]
) -> list[Link]:
    """Each booking with its movement, payout and lines; and each movement that has no booking."""
    lines = chain.lines_of({one.id for one in of_payouts.values()})
    judge = _Judge({one.currency for one in of_payouts.values()})
    by_id = {one.id: one for one in ours}
    by_source = {one.source: one for one in ours if one.source}
    by_source |= {source: by_id[id_] for source, id_ in other_ids.items() if id_ in by_id}
    links = []
    for booking in bookings:
        payout = of_payouts.get(booking.id)
        mine = by_source.get(booking.object)
        of_payout = lines.get(payout.id, []) if payout else []
        links.append(Link(mine, booking, payout, of_payout, judge.of(mine, booking, payout, of_payout)))
    booked = {link.ours.id for link in links if link.ours}
    links += [Link(one, None, None, [], judge.of(one, None, None, [])) for one in ours if one.id not in booked]
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
        if payout is None and booking.source.startswith("po_"):
            return Break("payout", Ending.BROKEN, "our books do not hold this payout")
        if payout is None:
            ready = booking.available_at is None or booking.available_at <= self.now
            says = "not paid out yet" if ready else f"available from {booking.available_at:%d %b %Y}"
            return Break("payout", Ending.WAITS, says)
        return self.at_bank(payout, lines)

    def at_bank(self, payout: Payout, lines: Sequence[BankLine]) -> Break | None:
        is_late = self.now.date() > payout.arrives_on + timedelta(days=settings.BANK_LATE_DAYS)
        broken_if_late = Ending.BROKEN if is_late else Ending.WAITS
        got = sum(line.amount_minor for line in lines)
        foreign = any(line.currency != payout.currency for line in lines)
        if payout.status in ("failed", "cancelled") and not foreign:
            if got == 0:  # none, or its arrival and its return
                return Break(
                    "payout", Ending.WAITS, "the payout came back: what it collected goes out with another one"
                )
            return Break("bank", broken_if_late, "the payout came back; the bank's statements do not hold its return")
        if payout.status in ("pending", "in_transit"):
            if not lines:
                return Break("bank", broken_if_late, f"on its way, expected on {payout.arrives_on:%d %b %Y}")
            if got == payout.amount_minor and not foreign:
                return Break("bank", Ending.WAITS, "the bank has it; Stripe says that it is on its way still")
        elif not lines and payout.currency not in self.told:
            says = f"no statement of a bank in {payout.currency.upper()} was taken in yet"
            return Break("bank", Ending.WAITS, says)
        elif not lines:
            return Break("bank", broken_if_late, "the bank's statements do not hold it" + ("" if is_late else " yet"))
        if got != payout.booked_minor or foreign:
            return Break("bank", Ending.BROKEN, "the bank got another amount than our books say")
        return None
