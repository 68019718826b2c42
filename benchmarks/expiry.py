"""Expiry of orders that never reached the provider, against plain set SQL that writes the same rows."""

import gc
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from django.db import connection, connections, transaction

from benchmarks.harness import SEED, Form, Section, measure, quantile
from catalog import services as catalog
from foundation.ids import public_id, uuid7
from foundation.redis import client
from orders import services, timer
from orders.models import Order
from orders.services import expiry

ORDERS = int(os.environ.get("ORDERS", "100000"))
PRODUCTS = 100
WORKERS = 2
LONGEST_S = 50e-3  # the aim for a batch's locks
COMMITS = 6_000  # of each worker, for comparison
ROUNDS = int(os.environ.get("ROUNDS", "3"))  # each order has to be made before it can expire

# What every form finds: orders of two items whose payment was never sent, with their stock held and logged.
_SEED = """
TRUNCATE orders_order, orders_orderitem, orders_orderhistory, payments_payment, payments_paymenthistory, payments_refund,
         inventory_stock, inventory_stockhold, inventory_stockmovement, durability_message, durability_delivery CASCADE;

INSERT INTO orders_order (id, merchant_id, status, customer, customer_email, customer_phone, currency, total_minor,
                          carrier, tracking, expires_at)
SELECT id, %(merchant)s, 'pending', 'cust-' || place %% 5000, 'reader@example.com', '', 'usd', 3000, '', '',
       now() - interval '1 minute' + make_interval(secs => place * 0.0001)
FROM seed ORDER BY place;

INSERT INTO orders_orderitem (order_id, merchant_id, product_id, product, title, quantity, unit_price_minor, amount_minor)
SELECT seed.id, %(merchant)s, product.id, product.product_id, 'A book', 1, 1500, 1500
FROM seed JOIN catalog_product product ON product.product_id IN (seed.one, seed.two) ORDER BY place;

INSERT INTO payments_payment (id, merchant_id, reference, customer, status, amount_minor, currency, method,
                              payment_method, confirm, captured_minor, corrected_minor, settling,
                              refunds_committed_minor, refunded_minor, failure_code, failure_decline_code,
                              failure_message, checks, disputed_lost_minor, refunds_excess_minor,
                              refunds_owed_minor)
SELECT payment, %(merchant)s, number, 'cust-' || place %% 5000, 'pending', 3000, 'usd', 'card',
       '', false, 0, 0, false, 0, 0, '', '', '', 0, 0, 0, 0
FROM seed ORDER BY place;

INSERT INTO inventory_stock (product_id, merchant_id, on_hand, reserved, version)
SELECT id, merchant_id, 1000000, (SELECT count(*) FROM seed WHERE product_id IN (one, two)), 1 FROM catalog_product
WHERE merchant_id = %(merchant)s;

INSERT INTO inventory_stockhold (id, merchant_id, reference, product_id, reserved, sold)
SELECT uuidv7(), %(merchant)s, number, product.id, 1, 0
FROM seed JOIN catalog_product product ON product.product_id IN (seed.one, seed.two) ORDER BY place;

INSERT INTO inventory_stockmovement (id, merchant_id, product_id, key, operation, quantity, on_hand_change,
    reserved_change, on_hand_after, reserved_after, reference, by, reason)
SELECT uuidv7(), %(merchant)s, product_id, concat_ws(':', reference, 'reserve', product_id), 'reserve', 1, 0, 1, 1000000, 1,
       reference, 'checkout', ''
FROM inventory_stockhold;

-- News of a shop with a past: PostgreSQL would check each foreign key to an empty table by reading the whole of it, until the table is
-- analyzed a minute later.
INSERT INTO durability_message (name, key, payload, request_id, state, published_at)
SELECT 'orders.order_paid.v1', 'past-' || n, '{}', '', 'published', now() FROM generate_series(1, 10000) n;
"""

# The floor: the same rows, all orders in one statement a table, one commit. The number of a payment is no column; any
# text of its length does.
_FLOOR = """
CREATE TEMP TABLE due ON COMMIT DROP AS
SELECT o.id, o.merchant_id, o.customer, o.total_minor, o.currency, p.id AS payment_id, p.reference AS number
FROM orders_order o
JOIN payments_payment p ON p.merchant_id = o.merchant_id AND p.customer = o.customer AND p.id = (
    SELECT payment FROM seed WHERE seed.id = o.id)
WHERE o.status = 'pending' AND o.cancel_requested_at IS NULL AND o.expires_at <= now() AND p.first_sent_at IS NULL;
ANALYZE due;

UPDATE payments_payment SET status = 'cancelled', next_check_at = NULL FROM due WHERE payments_payment.id = payment_id;
INSERT INTO payments_paymenthistory (subject_id, from_state, to_state, by, why)
SELECT payment_id, 'pending', 'cancelled', 'expiry', 'never reached the provider' FROM due;

UPDATE orders_order SET status = 'cancelled' FROM due WHERE orders_order.id = due.id;
INSERT INTO orders_orderhistory (subject_id, from_state, to_state, by, why)
SELECT id, 'pending', 'cancelled', 'expiry', 'not paid in time' FROM due;

WITH event AS (
    SELECT 'payments.payment_cancelled.v1' AS name, 'pay' || substr(number, 4) AS key, jsonb_build_object(
        'payment', 'pay' || substr(number, 4), 'merchant_id', merchant_id, 'reference', number,
        'amount_minor', total_minor, 'currency', currency, 'provider_reference', '') AS payload
    FROM due
    UNION ALL
    SELECT 'orders.order_cancelled.v1', number, jsonb_build_object(
        'order', number, 'merchant_id', merchant_id, 'customer', customer, 'amount_minor', total_minor,
        'currency', currency, 'why', 'not paid in time')
    FROM due
),
message AS (
    INSERT INTO durability_message (name, key, payload, request_id, state)
    SELECT name, key, payload, '', 'pending' FROM event
    RETURNING id, name, key
)
INSERT INTO durability_delivery (message_id, handler, key, outside, state, attempts, lease_version, last_error,
                                 resolved_by, resolved_reason)
SELECT message.id, listener.handler, key, outside, 'pending', 0, 0, '', '', ''
FROM message
JOIN unnest(%(handlers)s::text[], %(listens_to)s::text[], %(outside)s::boolean[]) AS listener (handler, name, outside)
     USING (name);

WITH total AS (
    SELECT product_id, sum(hold.reserved)::bigint AS quantity
    FROM inventory_stockhold hold JOIN due ON (hold.merchant_id, hold.reference) = (due.merchant_id, due.number)
    GROUP BY product_id
)
UPDATE inventory_stock SET reserved = reserved - quantity, version = version + 1
FROM total WHERE inventory_stock.product_id = total.product_id;

INSERT INTO inventory_stockmovement (id, merchant_id, product_id, key, operation, quantity, on_hand_change,
    reserved_change, on_hand_after, reserved_after, reference, by, reason)
SELECT uuidv7(), hold.merchant_id, hold.product_id, concat_ws(':', number, 'release_reserved', hold.product_id),
       'release_reserved', hold.reserved, 0, -hold.reserved, on_hand, stock.reserved, number, 'expiry', ''
FROM inventory_stockhold hold
JOIN due ON (hold.merchant_id, hold.reference) = (due.merchant_id, due.number)
JOIN inventory_stock stock ON stock.product_id = hold.product_id;

UPDATE inventory_stockhold SET reserved = 0
FROM due WHERE (inventory_stockhold.merchant_id, reference) = (due.merchant_id, due.number);
"""


class Batch(NamedTuple):
    """How long it held its locks, and how much of that was its commit."""

    held_s: float
    commit_s: float
    worker: int


def run() -> None:
    merchant = catalog.create_merchant(name="Expiry", currency="usd").id
    products = [f"book-{number}" for number in range(PRODUCTS)]
    for product in products:
        catalog.create_product(
            merchant_id=merchant, product=product, title=product, author="A", price_minor=1500, currency="usd"
        )
    choose = random.Random(SEED)

    def prepare() -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS seed")
            cursor.execute("CREATE TABLE seed (place int, id uuid, number text, payment uuid, one text, two text)")
            with cursor.copy("COPY seed FROM STDIN") as copy:
                for place in range(ORDERS):
                    order = uuid7()
                    copy.write_row((place, order, public_id("ord", order), uuid7(), *choose.sample(products, 2)))
            cursor.execute("ALTER TABLE seed ADD PRIMARY KEY (id)")
            cursor.execute("SET LOCAL statement_timeout = 0")
            cursor.execute(_SEED, {"merchant": merchant})
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 0")
            cursor.execute("VACUUM (ANALYZE)")
            cursor.execute("CHECKPOINT")
        client().flushdb()
        services.rearm()

    batches: list[Batch] = []
    first: list[Batch] = []  # of each process: it opens its connection and plans each statement

    def workers() -> int:
        for _, some in groupby(_in_processes(_work), lambda batch: batch.worker):
            one, *others = some
            first.append(one)
            batches.extend(others)
        _check()
        return ORDERS

    section = Section("expiry", f"Expiry of {ORDERS:,} orders of two items that never reached the provider")
    seen = measure(
        [
            Form("floor: set SQL, one transaction", _floor, prepare),
            Form("two workers", workers, prepare),
        ],
        rounds=ROUNDS,
        warm_up=False,  # the making of the orders has warmed everything
    )
    section.table(seen, unit=f"{ORDERS:,} orders")
    slower = 1 / seen[1].ratio(seen[0])
    section.aim("two workers ≤ 1.5 × the floor's time", met=slower <= 1.5, measured=f"{slower:.2f} ×")
    held = [batch.held_s for batch in batches]
    worst = max(batches)
    longer = sum(seconds > LONGEST_S for seconds in held)
    section.aim(
        "no batch holds locks over 50 ms",
        met=not longer,
        measured=f"{longer} of {len(batches):,} batches from the first lock to the commit ({_told(held)}, of which its commit took "
        f"{worst.commit_s * 1e3:.0f} ms); and a process's first batch, which plans every statement: "
        f"{_told([batch.held_s for batch in first])}",
    )
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE benchmark_commit (n int)")
    section.say(
        f"What this machine does to anybody's commit: of {WORKERS * COMMITS:,} that insert one row each, by two connections right "
        f"afterwards: {_told(_in_processes(_commit_one_row))}."
    )
    section.close()


def _floor() -> int:
    from durability import registry

    handlers = [
        handler
        for name in ("payments.payment_cancelled.v1", "orders.order_cancelled.v1")
        for handler in registry.handlers_of(name)
    ]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = 0")
        cursor.execute(
            _FLOOR,
            {
                "handlers": [handler.name for handler in handlers],
                "listens_to": [handler.event.name for handler in handlers],
                "outside": [handler.outside for handler in handlers],
            },
        )
    _check()
    return ORDERS


Timed = TypeVar("Timed")


def _in_processes(work: Callable[[int], list[Timed]]) -> list[Timed]:
    connections.close_all()
    gc.collect()
    gc.freeze()  # as config/celery.py does before it forks
    try:
        with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("fork")) as pool:
            return [one for some in pool.map(work, range(WORKERS)) for one in some]
    finally:
        gc.unfreeze()


def _told(seconds: list[float]) -> str:
    return (
        f"median {quantile(seconds, 0.5) * 1e3:.0f} ms, p99 {quantile(seconds, 0.99) * 1e3:.0f} ms, "
        f"longest {max(seconds) * 1e3:.0f} ms"
    )


def _commit_one_row(_number: int) -> list[float]:
    took: list[float] = []
    with connection.cursor() as cursor:
        for number in range(COMMITS):
            began = time.perf_counter()
            cursor.execute("INSERT INTO benchmark_commit VALUES (%s)", [number])
            took.append(time.perf_counter() - began)
    return took


def _work(number: int) -> list[Batch]:
    """One worker: runs until nothing is due. A batch holds its locks until its commit has returned."""
    durations: list[Batch] = []
    lock_due, forget, commit = expiry.lock_due, timer.forget, connection._commit
    began = committing = ended = 0.0

    def timed_commit() -> None:
        nonlocal committing, ended
        committing = time.perf_counter()
        commit()
        ended = time.perf_counter()  # what follows, such as the doorbell's ring, holds no locks

    def lock(**arguments: Any) -> list[Order]:
        nonlocal began
        began = time.perf_counter()
        return lock_due(**arguments)

    def committed(looked_at: dict[str, float]) -> None:
        if began and looked_at:
            durations.append(Batch(ended - began, ended - committing, number))
        forget(looked_at)

    expiry.lock_due, timer.forget = lock, committed  # type: ignore[assignment]
    connection._commit = timed_commit  # type: ignore[method-assign]
    while services.expire_due():
        pass
    return durations


def _check() -> None:
    """Both wrote the same rows."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT (SELECT count(*) FROM orders_order WHERE status = 'cancelled'),
                   (SELECT count(*) FROM orders_orderhistory),
                   (SELECT count(*) FROM payments_payment WHERE status = 'cancelled'),
                   (SELECT count(*) FROM payments_paymenthistory),
                   (SELECT count(*) FROM durability_message WHERE state = 'pending') / 2,
                   (SELECT count(*) FROM inventory_stockmovement WHERE operation = 'release_reserved') / 2,
                   (SELECT count(*) FROM inventory_stockhold WHERE reserved = 0) / 2,
                   (SELECT sum(reserved) FROM inventory_stock) + %s
        """,
            [ORDERS],
        )
        counts = cursor.fetchone()
    if set(counts) != {ORDERS}:
        raise SystemExit(f"error: not every row was written: {counts}")
