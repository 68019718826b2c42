"""Stock rows are locked here and nowhere else, always in primary-key order, so that no two carts wait for each other.

The project's order of locks: saga → order → stock → payment.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from django.db import connection


class Counts(NamedTuple):
    on_hand: int
    reserved: int

    @property
    def available(self) -> int:
        return self.on_hand - self.reserved


def lock_stock(*, merchant_id: UUID, product_ids: Iterable[UUID]) -> dict[UUID, Counts]:
    """Lock these products' stock until the transaction ends; one without a row is missing."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT product_id, on_hand, reserved FROM inventory_stock
            WHERE merchant_id = %s AND product_id = ANY(%s::uuid[])
            ORDER BY product_id FOR NO KEY UPDATE
            """,
            [merchant_id, list(product_ids)],
        )
        return {product_id: Counts(on_hand, reserved) for product_id, on_hand, reserved in cursor.fetchall()}


def lock_held_stock(*, merchant_ids: Sequence[UUID], references: Sequence[str]) -> None:
    """Lock the stock of all that these references (paired with their merchants) hold."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT product_id FROM inventory_stock
            WHERE product_id IN (
                SELECT hold.product_id FROM inventory_stockhold hold
                JOIN unnest(%s::uuid[], %s::text[]) AS asked (merchant_id, reference) USING (merchant_id, reference)
            )
            ORDER BY product_id FOR NO KEY UPDATE
            """,
            [list(merchant_ids), list(references)],
        )
