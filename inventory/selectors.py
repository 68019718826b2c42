"""Everything that reads stock."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from django.db import connection
from django.db.models import F

import catalog.selectors
from foundation.errors import NotFound
from foundation.ids import first_id_at
from inventory.models import Stock, StockCheck, StockMovement
from inventory.types import MovementView, StockAt, StockLevel, StockProof

_COUNTED_UP_TO = 1_000


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


# One look into the index (product, id) for each moment, however long the log is: ids are in the order of time.
_STOOD = """
SELECT asked.at, log.on_hand_after, log.reserved_after
FROM unnest(%(moments)s::timestamptz[], %(ids)s::uuid[]) AS asked (at, id)
CROSS JOIN LATERAL (
    SELECT on_hand_after, reserved_after FROM inventory_stockmovement
    WHERE product_id = %(product_id)s AND id < asked.id
    ORDER BY id DESC LIMIT 1
) log
ORDER BY asked.at
"""


def stock_history(*, product_id: UUID, moments: Sequence[datetime]) -> list[StockAt]:
    """How a product's stock stood just before each of these moments; those before its first movement are left out."""
    ids = [first_id_at(moment) for moment in moments]
    with connection.cursor() as cursor:
        cursor.execute(_STOOD, {"moments": list(moments), "ids": ids, "product_id": product_id})
        return [StockAt(*row) for row in cursor.fetchall()]


def first_movement_at(*, product_id: UUID) -> datetime | None:
    """When a product's stock first moved."""
    log = StockMovement.objects.filter(product_id=product_id).order_by("pk")
    return log.values_list("at", flat=True).first()


def low_stock_count() -> int:
    """Of how many products no more is left than their threshold; more than a thousand are told as a thousand."""
    low = Stock.objects.filter(low_noticed_at__isnull=False, low_threshold__gte=F("on_hand") - F("reserved"))
    return len(low.order_by().values_list("pk")[:_COUNTED_UP_TO])


def last_stock_check() -> StockProof | None:
    """The newest proof of the stock."""
    check = StockCheck.objects.order_by("-day").first()
    return StockProof(check.day, check.finished_at, check.found) if check else None


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
