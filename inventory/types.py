"""The inventory's vocabulary for the apps above."""

from dataclasses import dataclass
from datetime import datetime
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
