"""The inventory's vocabulary for the apps above."""

from dataclasses import dataclass
from datetime import date, datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Line:
    """So many pieces of a product. `product` is its public id, for messages to the caller."""

    product_id: UUID
    product: str
    quantity: int


@dataclass(frozen=True, slots=True)
class StockLevel:
    """What is on the shelf, how much of it is promised, and what is left to sell."""

    product: str
    on_hand: int
    reserved: int
    available: int


@dataclass(frozen=True, slots=True)
class MovementView:
    """One line of the stock log."""

    product: str
    operation: str
    quantity: int
    on_hand_change: int
    reserved_change: int
    on_hand_after: int
    reserved_after: int
    reference: str
    by: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class StockProof:
    """A daily proof that stock, log and holds agree: how many differences it found."""

    day: date
    finished_at: datetime
    found: int


@dataclass(frozen=True, slots=True)
class StockAt:
    """How a product's stock stood at a moment."""

    at: datetime
    on_hand: int
    reserved: int

    @property
    def available(self) -> int:
        return self.on_hand - self.reserved
