"""What stock, log and holds say of the same thing, and whether they agree: read from every line there is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

import catalog.selectors
from inventory.models import Stock


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is said in two places, and differently. `law` names what is broken, `product` the public id."""

    law: str
    product: str
    text: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Some products that were looked at, the lines of their logs, and what differs."""

    products: int
    movements: int
    differences: Sequence[Difference]


# One statement, so one consistent sight: what moves meanwhile is no difference. No row is locked.
_COMPARE = """
SELECT stock.product_id, logged.lines,
       stock.on_hand, logged.on_hand,
       stock.reserved, logged.reserved,
       stock.reserved, held.reserved,
       held.sold, logged.sold
FROM inventory_stock stock
CROSS JOIN LATERAL (
    SELECT count(*) AS lines, coalesce(sum(on_hand_change), 0)::bigint AS on_hand,
           coalesce(sum(reserved_change), 0)::bigint AS reserved,
           coalesce(sum(CASE WHEN operation IN ('commit', 'deduct') THEN quantity
                             WHEN operation IN ('return_sold', 'release') THEN -quantity END), 0)::bigint AS sold
    FROM inventory_stockmovement log WHERE log.product_id = stock.product_id
) logged
CROSS JOIN LATERAL (
    SELECT coalesce(sum(reserved), 0)::bigint AS reserved, coalesce(sum(sold), 0)::bigint AS sold
    FROM inventory_stockhold hold WHERE hold.product_id = stock.product_id
) held
WHERE stock.product_id = ANY(%s::uuid[])
ORDER BY stock.product_id
"""
# The law of each pair of columns above, and what to say of it.
_LAWS = (
    ("on_hand_is_the_log", "{} are on hand, the log adds up to {}"),
    ("reserved_is_the_log", "{} are reserved, the log adds up to {}"),
    ("reserved_is_held", "{} are reserved, open reservations add up to {}"),
    ("sold_is_the_log", "{} are held as sold, the log adds up to {}"),
)


def proof() -> Iterator[Batch]:
    """Every product's stock against its log and its holds, STOCK_CHECK_BATCH of them in a transaction."""
    after: UUID | None = None
    while True:
        stock = Stock.objects.order_by("pk").values_list("pk", flat=True)
        product_ids = list((stock.filter(pk__gt=after) if after else stock)[: settings.STOCK_CHECK_BATCH])
        if not product_ids:
            return
        yield _compare(product_ids)
        after = product_ids[-1]


def _compare(product_ids: Sequence[UUID]) -> Batch:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = {settings.STOCK_CHECK_STATEMENT_TIMEOUT_MS:d}")
        cursor.execute(_COMPARE, [list(product_ids)])
        rows = cursor.fetchall()
    broken = [
        (product_id, law, text.format(*pair))
        for product_id, _, *counts in rows
        for (law, text), pair in zip(_LAWS, zip(counts[::2], counts[1::2], strict=True), strict=True)
        if pair[0] != pair[1]
    ]
    names = catalog.selectors.public_product_ids({product_id for product_id, _, _ in broken}) if broken else {}
    return Batch(
        products=len(rows),
        movements=sum(lines for _, lines, *_ in rows),
        differences=[Difference(law, names.get(product_id, str(product_id)), text) for product_id, law, text in broken],
    )
