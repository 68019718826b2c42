"""What the inventory refuses."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from foundation.errors import DomainError
from inventory.examples import SHORTAGES


class InsufficientStock(DomainError):
    """There is not enough in stock: `errors` names every line that is short."""

    code = "insufficient_stock"
    status = 409
    shown: ClassVar[Mapping[str, Any]] = SHORTAGES

    def __init__(self, shortages: Iterable[tuple[str, int, int]]) -> None:
        """Each shortage: the product's public id, how many were requested, how many are available."""
        names = ("product", "requested", "available")
        super().__init__(members={"errors": [dict(zip(names, shortage, strict=True)) for shortage in shortages]})


class HoldExceeded(DomainError):
    """More cannot come back under a reference than was deducted under it."""

    code = "hold_exceeded"
    status = 409


class NothingReserved(DomainError):
    """Nothing is reserved under this reference any more: it was released, or never was."""

    code = "nothing_reserved"
    status = 409


class MovementKeyReused(DomainError):
    """This key stands in the stock log for a different movement: take a new key for a new movement."""

    code = "idempotency_key_reused"
    status = 422
