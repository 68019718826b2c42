"""Everything that moves stock.

Each movement has a key, unique per merchant: moving twice with one key moves once. Each function works in the caller's
transaction or makes its own, locks stock rows in primary-key order, and then changes stock, holds and log in one
statement, however many lines there are. That statement starts after the locks were granted, so it sees what the
transactions before it committed. Reserving is a function in PostgreSQL (migration 0004): checkout calls it from another.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, date
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models.functions import Now

import catalog.selectors
from durability import services as durability
from foundation.database import database_now
from foundation.errors import ChangedMeanwhile, InvalidInput, NotFound
from inventory import books
from inventory.errors import HoldExceeded, InsufficientStock, MovementKeyReused, NothingReserved
from inventory.events import StockLow
from inventory.locks import Counts, lock_held_stock, lock_stock
from inventory.models import Stock, StockCheck, StockHold, StockMovement
from inventory.types import Line, StockLevel

log = logging.getLogger(__name__)

Operation = StockMovement.Operation

_ORDER_MARK = "ord_"  # an order's number is held by the order alone


class Effect(NamedTuple):
    """What one piece does to the stock's on_hand, to reserved (the stock's and the hold's), and to the hold's sold."""

    on_hand: int
    reserved: int
    sold: int


_EFFECTS = {
    Operation.RESTOCK: Effect(+1, 0, 0),
    Operation.COMMIT: Effect(-1, -1, +1),
    Operation.RELEASE_RESERVED: Effect(0, -1, 0),
    Operation.RETURN_SOLD: Effect(+1, 0, -1),
    Operation.DEDUCT: Effect(-1, 0, +1),
    Operation.RELEASE: Effect(+1, 0, -1),
}


# --- For orders -------------------------------------------------------------------------------------


def reserve(*, merchant_id: UUID, reference: str, lines: Sequence[Line], by: str) -> None:
    """Promise stock to a reference, once: all lines or none. Lines of one product are merged.

    Raises InsufficientStock with every short line. A second call with the same reference and product does nothing.
    """
    record = reservation_record(merchant_id=merchant_id, reference=reference, lines=lines, by=by)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT inventory_reserve(%s::jsonb)::text", [json.dumps(record)])
        (short,) = cursor.fetchone()
        if short:
            raise shortage(json.loads(short), lines=lines)


def reservation_record(*, merchant_id: UUID, reference: str, lines: Sequence[Line], by: str) -> dict[str, Any]:
    """A reservation as the SQL function `inventory_reserve` takes it, for a statement of an app above."""
    names = {line.product_id: line.product for line in lines}
    return {
        "merchant_id": str(merchant_id),
        "reference": reference,
        "by": by,
        "news": durability.news_record([], kinds=[StockLow]),
        "lines": [
            {"product_id": str(product_id), "product": names[product_id], "quantity": quantity}
            for product_id, quantity in _quantities(lines).items()
        ],
    }


def shortage(short: Sequence[Mapping[str, Any]], *, lines: Sequence[Line]) -> InsufficientStock:
    """What `inventory_reserve` answered where something is short, as an error that names every short line."""
    available = {UUID(line["product_id"]): int(line["available"]) for line in short}
    names = {line.product_id: line.product for line in lines}
    return InsufficientStock(
        (names[product_id], quantity, available[product_id])
        for product_id, quantity in _quantities(lines).items()
        if product_id in available
    )


def _quantities(lines: Sequence[Line]) -> dict[UUID, int]:
    """Product → pieces, with the lines of one product merged."""
    quantities: dict[UUID, int] = {}
    for line in lines:
        quantities[line.product_id] = quantities.get(line.product_id, 0) + line.quantity
    return quantities


def release_reserved(*, merchant_id: UUID, reference: str, by: str) -> None:
    """Give back whatever is still reserved under a reference; nothing where nothing is."""
    release_reserved_many(references=[(merchant_id, reference)], by=by)


def release_reserved_many(*, references: Sequence[tuple[UUID, str]], by: str) -> None:
    """The same for many references (each with its merchant) in the same two statements."""
    _move_held(Operation.RELEASE_RESERVED, references=references, by=by)


def commit_reserved(*, merchant_id: UUID, reference: str, by: str) -> None:
    """Reserved becomes sold. A second call does nothing. Raises NothingReserved after a release, or without a reserve."""
    moved = _move_held(Operation.COMMIT, references=[(merchant_id, reference)], by=by)
    if not moved and not _was_committed(merchant_id, reference):
        raise NothingReserved


def return_sold(*, merchant_id: UUID, reference: str, by: str) -> None:
    """What was sold under a reference goes back on the shelf; nothing where nothing was, or where it is back already."""
    _move_held(Operation.RETURN_SOLD, references=[(merchant_id, reference)], by=by)


def _was_committed(merchant_id: UUID, reference: str) -> bool:
    log = StockMovement.objects.filter(merchant_id=merchant_id, reference=reference)
    return log.filter(operation=Operation.COMMIT).exists()


# --- For the API and for staff ----------------------------------------------------------------------


def restock(
    *, merchant_id: UUID, product: str, quantity: int, key: str, by: str, reference: str = "", reason: str = ""
) -> StockLevel:
    """Put pieces on the shelf. Raises NotFound, MovementKeyReused."""
    return _move_one(
        Operation.RESTOCK,
        merchant_id=merchant_id,
        product=product,
        quantity=quantity,
        key=key,
        by=by,
        reference=reference,
        reason=reason,
    )


def deduct(*, merchant_id: UUID, product: str, quantity: int, reference: str, key: str, by: str) -> StockLevel:
    """Take pieces off the shelf under a reference of the caller's, which may release them again.

    Raises InsufficientStock, NotFound, MovementKeyReused, InvalidInput for an order's number.
    """
    _refuse_orders_number(reference)
    return _move_one(
        Operation.DEDUCT,
        merchant_id=merchant_id,
        product=product,
        quantity=quantity,
        key=key,
        by=by,
        reference=reference,
    )


def release(*, merchant_id: UUID, product: str, quantity: int, reference: str, key: str, by: str) -> StockLevel:
    """Put back pieces that were deducted under the same reference.

    Raises HoldExceeded beyond what is still out, NotFound, MovementKeyReused, InvalidInput for an order's number.
    """
    _refuse_orders_number(reference)
    return _move_one(
        Operation.RELEASE,
        merchant_id=merchant_id,
        product=product,
        quantity=quantity,
        key=key,
        by=by,
        reference=reference,
    )


def adjust(
    *,
    merchant_id: UUID,
    product: str,
    change: int,
    key: str,
    by: str,
    reason: str,
    expected_version: int | None = None,
) -> StockLevel:
    """Correct on_hand by `change` after a count, never below what is reserved; the reason is kept.

    A count differs from what the person saw: `expected_version` of that page. (A delivery needs none: what came has come,
    whatever was sold meanwhile.) Raises InsufficientStock, NotFound, MovementKeyReused, ChangedMeanwhile, InvalidInput
    without a change or a reason.
    """
    if not change or not reason.strip():
        raise InvalidInput("Say by how much the count differs, and why.", param="reason" if change else "change")
    return _move_one(
        Operation.ADJUST,
        merchant_id=merchant_id,
        product=product,
        quantity=abs(change),
        key=key,
        by=by,
        reason=reason.strip(),
        effect=Effect(+1 if change > 0 else -1, 0, 0),
        expected_version=expected_version,
    )


def set_low_threshold(*, merchant_id: UUID, product: str, threshold: int | None) -> StockLevel:
    """From how many available pieces down a product is low; None: it never is. Told at once where it is low already.

    Raises NotFound, InvalidInput.
    """
    if threshold is not None and not 0 <= threshold <= settings.STOCK_MAX_QUANTITY:
        raise InvalidInput(f"A threshold is from 0 to {settings.STOCK_MAX_QUANTITY} pieces.", param="threshold")
    product_id = _product_id(merchant_id, product)
    with transaction.atomic():
        Stock.objects.bulk_create([Stock(product_id=product_id, merchant_id=merchant_id)], ignore_conflicts=True)
        lock_stock(merchant_id=merchant_id, product_ids=[product_id])
        stock = Stock.objects.get(pk=product_id)
        was_noticed = stock.low_noticed_at is not None
        stock.low_threshold = threshold
        if not stock.is_low:
            stock.low_noticed_at = None
        elif not was_noticed:
            stock.low_noticed_at = database_now()
        stock.version += 1
        stock.save(update_fields=["low_threshold", "low_noticed_at", "version"])
        if stock.is_low and not was_noticed:
            _tell_of_low([product_id])
    return _level(product, Counts(stock.on_hand, stock.reserved))


def _tell_of_low(product_ids: Sequence[UUID]) -> None:
    low = Stock.objects.filter(pk__in=product_ids).order_by("pk")
    names = catalog.selectors.public_product_ids(product_ids)
    durability.publish_many(
        [
            StockLow(
                stock=str(stock.pk),
                product=names[stock.pk],
                merchant_id=str(stock.merchant_id),
                available=stock.available,
                threshold=stock.low_threshold or 0,
            )
            for stock in low
        ]
    )


def _refuse_orders_number(reference: str) -> None:
    if reference.startswith(_ORDER_MARK):
        raise InvalidInput(
            "An order holds its own stock: cancel the order, or use a reference of yours.", param="reference"
        )


def _move_one(
    operation: Operation,
    *,
    merchant_id: UUID,
    product: str,
    quantity: int,
    key: str,
    by: str,
    reference: str = "",
    reason: str = "",
    effect: Effect | None = None,
    expected_version: int | None = None,
) -> StockLevel:
    product_id = _product_id(merchant_id, product)
    effect = effect or _EFFECTS[operation]
    with transaction.atomic():
        if effect.on_hand > 0:
            Stock.objects.bulk_create([Stock(product_id=product_id, merchant_id=merchant_id)], ignore_conflicts=True)
        stock = lock_stock(merchant_id=merchant_id, product_ids=[product_id])
        before = stock.get(product_id, Counts(0, 0))
        earlier = StockMovement.objects.filter(merchant_id=merchant_id, key=key).first()
        if earlier:
            asked = (product_id, operation, quantity * effect.on_hand, reference)
            if (earlier.product_id, earlier.operation, earlier.on_hand_change, earlier.reference) != asked:
                raise MovementKeyReused
            return _level(product, before)
        if expected_version is not None:
            _check_version(product_id, expected_version, before)
        if effect.on_hand < 0 and before.available < quantity:
            raise InsufficientStock([(product, quantity, before.available)])
        if operation == Operation.RELEASE:
            _check_hold(merchant_id, reference, product_id, quantity)
        _move_lines(
            operation,
            merchant_id=merchant_id,
            reference=reference,
            quantities={product_id: quantity},
            keys=[key],
            by=by,
            reason=reason,
            effect=effect,
        )
    return _level(product, Counts(before.on_hand + quantity * effect.on_hand, before.reserved))


def _product_id(merchant_id: UUID, product: str) -> UUID:
    ids = catalog.selectors.product_ids(merchant_id=merchant_id, products=[product])
    if product not in ids:
        raise NotFound
    return ids[product]


def _check_version(product_id: UUID, expected: int, now: Counts) -> None:
    """Under the lock."""
    if not Stock.objects.filter(pk=product_id, version=expected).exists():
        raise ChangedMeanwhile(
            f"Stock has moved since you looked: {now.on_hand} are on hand now, {now.reserved} of them reserved. "
            "Look whether the difference is still right, then send it again."
        )


def _check_hold(merchant_id: UUID, reference: str, product_id: UUID, quantity: int) -> None:
    hold = StockHold.objects.filter(merchant_id=merchant_id, reference=reference, product_id=product_id).first()
    out = hold.sold if hold else 0
    if out < quantity:
        raise HoldExceeded(f"Under this reference {out} can come back, not {quantity}.", param="quantity")


def _level(product: str, counts: Counts) -> StockLevel:
    return StockLevel(product, counts.on_hand, counts.reserved, counts.available)


# --- The one statement that moves -------------------------------------------------------------------

# Where the lines come from: given by the caller …
_GIVEN = """
    SELECT %(merchant_id)s::uuid AS merchant_id, %(reference)s::text AS reference, given.*
    FROM unnest(%(product_ids)s::uuid[], %(quantities)s::bigint[], %(keys)s::text[]) AS given (product_id, quantity, key)
"""
# … or all that some references hold.
_RESERVED = """
    SELECT hold.merchant_id, hold.reference, hold.product_id, hold.reserved AS quantity,
           concat_ws(':', hold.reference, %(operation)s::text, hold.product_id) AS key
    FROM inventory_stockhold hold
    JOIN unnest(%(merchant_ids)s::uuid[], %(references)s::text[]) AS asked (merchant_id, reference)
         USING (merchant_id, reference)
    WHERE hold.reserved > 0
"""
_SOLD = _RESERVED.replace("hold.reserved", "hold.sold")

# What becomes of the hold: nothing, more is taken under it, or what it has changes.
_NO_HOLD = "SELECT"
_INTO_HOLD = """
    INSERT INTO inventory_stockhold AS hold (id, merchant_id, reference, product_id, reserved, sold)
    SELECT uuidv7(), merchant_id, reference, product_id, quantity * %(reserved)s, quantity * %(sold)s FROM fresh
    ON CONFLICT (merchant_id, reference, product_id)
    DO UPDATE SET reserved = hold.reserved + excluded.reserved, sold = hold.sold + excluded.sold
"""
_WITHIN_HOLD = """
    UPDATE inventory_stockhold hold
    SET reserved = hold.reserved + quantity * %(reserved)s, sold = hold.sold + quantity * %(sold)s
    FROM fresh
    WHERE (hold.merchant_id, hold.reference, hold.product_id) = (fresh.merchant_id, fresh.reference, fresh.product_id)
"""

# Several references may hold one product: its row changes once, by the sum, and each log row says how it stood after it.
# The log reads the stock as it was before this statement, which the lock has kept since. Where this makes stock low, it is
# noted in the same UPDATE, and its product comes back.
_MOVE = """
WITH line AS ({lines}),
fresh AS (
    SELECT * FROM line
    WHERE NOT EXISTS (
        SELECT FROM inventory_stockmovement log WHERE log.merchant_id = line.merchant_id AND log.key = line.key
    )
),
total AS (SELECT product_id, sum(quantity)::bigint AS quantity FROM fresh GROUP BY product_id),
moved AS (
    UPDATE inventory_stock stock
    SET on_hand = stock.on_hand + total.quantity * %(on_hand)s,
        reserved = stock.reserved + total.quantity * %(reserved)s,
        version = stock.version + 1,
        low_noticed_at = CASE
            WHEN stock.on_hand - stock.reserved + total.quantity * (%(on_hand)s - %(reserved)s) <= stock.low_threshold
                THEN coalesce(stock.low_noticed_at, now())
            WHEN %(on_hand)s <= 0 THEN stock.low_noticed_at
        END
    FROM total WHERE stock.product_id = total.product_id
    RETURNING stock.product_id, old.low_noticed_at IS NULL AND new.low_noticed_at IS NOT NULL AS is_low_now
),
hold AS ({hold}),
logged AS (
INSERT INTO inventory_stockmovement (
    id, merchant_id, product_id, key, operation, quantity, on_hand_change, reserved_change,
    on_hand_after, reserved_after, reference, by, reason
)
SELECT uuidv7(), fresh.merchant_id, fresh.product_id, fresh.key, %(operation)s, fresh.quantity,
       fresh.quantity * %(on_hand)s, fresh.quantity * %(reserved)s,
       before.on_hand + sum(fresh.quantity) OVER so_far * %(on_hand)s,
       before.reserved + sum(fresh.quantity) OVER so_far * %(reserved)s,
       fresh.reference, %(by)s, %(reason)s
FROM fresh JOIN inventory_stock before ON before.product_id = fresh.product_id
WINDOW so_far AS (PARTITION BY fresh.product_id ORDER BY fresh.key)
ORDER BY fresh.product_id, fresh.key
RETURNING 1
)
SELECT (SELECT count(*) FROM logged), ARRAY(SELECT product_id FROM moved WHERE is_low_now)
"""


def _move_lines(
    operation: Operation,
    *,
    merchant_id: UUID,
    reference: str,
    quantities: Mapping[UUID, int],
    keys: Sequence[str],
    by: str,
    reason: str = "",
    effect: Effect | None = None,
) -> None:
    effect = effect or _EFFECTS[operation]
    if not effect.reserved and not effect.sold:
        hold = _NO_HOLD
    elif min(effect.reserved, effect.sold) < 0:
        hold = _WITHIN_HOLD
    else:
        hold = _INTO_HOLD
    _execute(
        _MOVE.format(lines=_GIVEN, hold=hold),
        {**effect._asdict(), "operation": operation.value, "by": by, "reason": reason},
        {
            "merchant_id": merchant_id,
            "reference": reference,
            "product_ids": list(quantities),
            "quantities": list(quantities.values()),
            "keys": list(keys),
        },
    )


def _move_held(operation: Operation, *, references: Sequence[tuple[UUID, str]], by: str) -> int:
    """Returns how many lines moved."""
    effect = _EFFECTS[operation]
    asked = list(dict.fromkeys(references))
    merchant_ids, names = [merchant for merchant, _ in asked], [name for _, name in asked]
    with transaction.atomic():
        lock_held_stock(merchant_ids=merchant_ids, references=names)
        return _execute(
            _MOVE.format(lines=_RESERVED if effect.reserved else _SOLD, hold=_WITHIN_HOLD),
            {**effect._asdict(), "operation": operation.value, "by": by, "reason": ""},
            {"merchant_ids": merchant_ids, "references": names},
        )


def _execute(statement: str, movement: dict[str, Any], lines: dict[str, Any]) -> int:
    with connection.cursor() as cursor:
        cursor.execute(statement, {**movement, **lines})
        moved, low = cursor.fetchone()
    if low:
        _tell_of_low(low)
    return int(moved)


# --- The daily proof --------------------------------------------------------------------------------


def check_stock_of_today() -> bool:
    """Prove the stock once a UTC day, whoever asks and however often; whether it was done now."""
    day = database_now().astimezone(UTC).date()
    if StockCheck.objects.filter(day=day).exists():
        return False
    check_stock(day=day)
    return True


def check_stock(*, day: date) -> StockCheck:
    """Look for stock, log and holds that do not agree, and write down what was found for that day. Raises nothing for what
    it finds: the metric and the alert tell of it. Belongs outside of transactions.
    """
    began_at = database_now()
    products = movements = 0
    found: list[books.Difference] = []
    for batch in books.proof():
        products += batch.products
        movements += batch.movements
        found += batch.differences
    for difference in found[: settings.STOCK_CHECK_SHOWN]:
        log.error("the stock differs: %s %s: %s", difference.law, difference.product, difference.text)
    # Done before on this day (by hand, or by another worker): the newer sight stands.
    check, _ = StockCheck.objects.update_or_create(
        day=day,
        defaults={
            "began_at": began_at,
            "finished_at": Now(),
            "products": products,
            "movements": movements,
            "found": len(found),
            "differences": [asdict(difference) for difference in found[: settings.STOCK_CHECK_SHOWN]],
        },
    )
    return check
