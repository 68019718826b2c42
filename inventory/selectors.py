"""Everything that reads stock."""

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

import catalog.selectors
from foundation.errors import NotFound
from inventory.models import Stock, StockMovement
from inventory.types import MovementView, StockLevel


def stock_levels(*, merchant_id: UUID, product_ids: Iterable[UUID]) -> dict[UUID, StockLevel]:
    """The stock of these products by inner id; one that was never restocked has 0."""
    return _levels(merchant_id, catalog.selectors.public_product_ids(product_ids))


def list_stock(*, merchant_id: UUID, products: Sequence[str]) -> list[StockLevel]:
    """The stock of these products by public id, in the order asked; unknown ones are left out."""
    ids = catalog.selectors.product_ids(merchant_id=merchant_id, products=products)
    levels = _levels(merchant_id, {inner: public for public, inner in ids.items()})
    return [levels[ids[product]] for product in dict.fromkeys(products) if product in ids]


def get_stock(*, merchant_id: UUID, product: str) -> StockLevel:
    """Raises NotFound for an unknown product."""
    for level in list_stock(merchant_id=merchant_id, products=[product]):
        return level
    raise NotFound


def movements_of(*, merchant_id: UUID, reference: str) -> list[MovementView]:
    """What happened to stock under a reference, oldest first."""
    rows = StockMovement.objects.filter(merchant_id=merchant_id, reference=reference).order_by("pk")
    return [
        MovementView(
            product=row.product.product_id,
            operation=row.operation,
            quantity=row.quantity,
            on_hand_change=row.on_hand_change,
            reserved_change=row.reserved_change,
            on_hand_after=row.on_hand_after,
            reserved_after=row.reserved_after,
            reference=row.reference,
            by=row.by,
            reason=row.reason,
            at=row.at,
        )
        for row in rows.select_related("product")
    ]


def _levels(merchant_id: UUID, public_ids: Mapping[UUID, str]) -> dict[UUID, StockLevel]:
    rows = Stock.objects.filter(merchant_id=merchant_id, pk__in=list(public_ids)).values_list(
        "pk", "on_hand", "reserved"
    )
    counts = {pk: (on_hand, reserved) for pk, on_hand, reserved in rows}
    levels = {}
    for inner, public in public_ids.items():
        on_hand, reserved = counts.get(inner, (0, 0))
        levels[inner] = StockLevel(public, on_hand, reserved, on_hand - reserved)
    return levels
