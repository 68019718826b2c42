"""News of stock. Names are versioned; payloads hold ids and counts."""

from dataclasses import dataclass
from typing import ClassVar

from durability.types import Event


@dataclass(frozen=True, slots=True)
class StockLow(Event):
    """Of a product no more is left to sell than its threshold. Told once, until something comes in that lifts it above.

    `stock` is unique to the product; `product` is its public id, unique to its merchant.
    """

    name: ClassVar[str] = "inventory.stock_low.v1"
    stock: str
    product: str
    merchant_id: str
    available: int
    threshold: int

    @property
    def key(self) -> str:
        return self.stock
