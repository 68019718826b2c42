"""`POST /checkout` over HTTP, beside the plain form, and beside what PostgreSQL alone makes of the same rows."""

import itertools
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from uuid import UUID, uuid4

from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext

from benchmarks import web
from benchmarks.harness import Form, Section, Seen, measure, pgbench, postgres_cpu_s
from benchmarks.shop import CART, CUSTOMER, PRODUCTS, claim, open_shop, storefront_key
from catalog.selectors import _CART
from durability import services as durability
from durability import shares
from durability.models import SagaRun
from durability.types import Lane
from orders.services import checkout
from orders.types import PaymentWish
from orders.views import placed_answer
from payments.models import Payment

CHECKOUTS = int(os.environ.get("CHECKOUTS", "1600"))  # a round of the product's form
PLAIN_CHECKOUTS = CHECKOUTS // 4
PGBENCH_CHECKOUTS = CHECKOUTS * 4
ROUNDS = int(os.environ.get("ROUNDS", "5"))
DRAIN_S = 10.0
_JOBS = 4  # threads of pgbench: sixteen would only take turns on two cores

# The rows of one table each, in as many statements, prepared. What the product's form stores in the key (its answer) is here
# as long a text. `:base` and the client's number make the ids.
STATEMENTS = """
\\set n :n + 1
\\set place :base + :client_id * 1000000 + :n
BEGIN;
INSERT INTO durability_idempotencykey (caller, key, method, path, body_hash, subject)
    VALUES (:merchant, 'key-' || :place, 'POST', '/api/v1/checkout', decode(repeat('00', 32), 'hex'), '');
{cart};
{lock};
INSERT INTO orders_order (id, merchant_id, status, customer, customer_email, customer_phone, currency, total_minor, carrier,
                          tracking, expires_at)
    VALUES (md5('o' || :place)::uuid, :merchant, 'pending', 'cust-1', 'reader@example.com', '', 'usd', 300, '', '',
            now() + interval '1 day');
INSERT INTO orders_orderitem (order_id, merchant_id, product_id, product, title, quantity, unit_price_minor, amount_minor)
    VALUES {items};
INSERT INTO payments_payment (id, merchant_id, reference, customer, status, amount_minor, currency, method, payment_method,
                              confirm, captured_minor, corrected_minor, settling, refunds_committed_minor, refunded_minor,
                              refunds_excess_minor, refunds_owed_minor, disputed_lost_minor, failure_code,
                              failure_decline_code, failure_message, checks)
    VALUES (md5('p' || :place)::uuid, :merchant, 'ord_' || :place, 'cust-1', 'pending', 300, 'usd', 'card', '', false,
            0, 0, false, 0, 0, 0, 0, 0, '', '', '', 0);
INSERT INTO durability_sagarun (id, recipe, version, key, subject, payload, request_id, state, current_step, outside, attempts,
                                lease_version, available_at, error)
    VALUES (md5('s' || :place)::uuid, 'benchmark', 1, 'ord_' || :place, 'ord_' || :place, '{{"payment": "pay_"}}', 'req',
            'completed', 1, true, 0, 0, now(), '');
INSERT INTO durability_sagastep (run_id, index, name, state, attempts, note, by, finished_at)
    VALUES (md5('s' || :place)::uuid, 0, 'place the order', 'done', 0, '', '', now());
INSERT INTO durability_message (name, key, payload, request_id, state)
    VALUES ('orders.order_placed.v1', 'ord_' || :place, '{{"order": "ord_"}}', 'req', 'pending');
{reserve}
UPDATE durability_idempotencykey SET subject = 'ord_' || :place, status = 201, body = :answer
    WHERE caller = :merchant AND key = 'key-' || :place;
COMMIT;
"""
RESERVE = """
UPDATE inventory_stock SET reserved = reserved + 1, version = version + 1 WHERE product_id = {product};
INSERT INTO inventory_stockhold (id, merchant_id, reference, product_id, reserved, sold)
    VALUES (uuidv7(), :merchant, 'ord_' || :place, {product}, 1, 0);
INSERT INTO inventory_stockmovement (id, merchant_id, product_id, key, operation, quantity, on_hand_change, reserved_change,
                                     on_hand_after, reserved_after, reference, by, reason)
    VALUES (uuidv7(), :merchant, {product}, 'ord_' || :place || {product}, 'reserve', 1, 0, 1, 1, 1, 'ord_' || :place,
            'checkout', '');
"""

# What the one-call form is given: documents that the product's own code made beforehand, each used once.
_CARTS = """
CREATE TABLE benchmark_cart (place bigint PRIMARY KEY, claim jsonb, placed jsonb, payment jsonb, saga jsonb, news jsonb,
                             reservation jsonb);
CREATE SEQUENCE benchmark_place;
CREATE FUNCTION benchmark_checkout(wanted bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    cart record;
    became text;
BEGIN
    SELECT * INTO STRICT cart FROM benchmark_cart WHERE place = wanted;
    PERFORM * FROM ({cart}) priced;
    SELECT outcome INTO became FROM orders_place_order(cart.claim, cart.placed, cart.payment, cart.saga, cart.news,
                                                       cart.reservation);
    IF became <> 'placed' THEN RAISE EXCEPTION 'cart % became %', wanted, became; END IF;
    RETURN became;
END $$
"""


def run() -> None:
    merchant = open_shop("Checkout")
    key = storefront_key(merchant)
    _make_one_call(merchant)
    made = itertools.count()

    def body() -> bytes:
        customer = {"id": CUSTOMER.id, "email": CUSTOMER.email}
        items = [{"product": one.product, "quantity": one.quantity} for one in CART]
        return json.dumps({"customer": customer, "items": items, "payment": {"method": "card"}}).encode()

    text = body()

    def ask() -> bytes:
        headers = f"Idempotency-Key: {next(made)}-{uuid4()}\r\nPrefer: respond-async\r\n"
        return web.request("POST", "/api/v1/checkout", key, body=text, headers=headers)

    def over_http(server: web.Server, requests: int) -> int:
        seen = web.closed_loop(server, ask, requests=requests)
        if set(seen.statuses) != {201}:
            raise SystemExit(f"error: the answers were {dict(seen.statuses)}")
        return sum(seen.statuses.values())

    section = Section("checkout", "Checkout")
    script = statements(merchant, PRODUCTS)
    base = itertools.count(1)
    with web.product() as product, web.plain("benchmarks.plain:application") as plain:
        seen = measure(
            [
                Form("PostgreSQL alone: one call", one_call, lambda: carts(merchant)),
                Form(
                    "PostgreSQL alone: a statement a table",
                    lambda: pgbench(
                        script,
                        transactions=PGBENCH_CHECKOUTS,
                        clients=web.CLIENTS,
                        jobs=_JOBS,
                        variables={"n": 0, "base": next(base) * 10**9},
                    ),
                ),
                Form(
                    "the plain form: ORM, serializers, gunicorn sync",
                    lambda: over_http(plain, PLAIN_CHECKOUTS),
                    our_cpu_s=plain.cpu_s,
                ),
                Form(
                    "the product: POST /checkout on granian",
                    lambda: over_http(product, CHECKOUTS),
                    our_cpu_s=product.cpu_s,
                ),
            ],
            rounds=ROUNDS,
        )
    section.table(seen, unit="checkouts of two items, 16 clients")
    _aims(section, seen)
    section.say(_statements_told(merchant, key, text))
    _drain(section)
    section.close()


def _aims(section: Section, seen: list[Seen]) -> None:
    one_call_seen, _, plain, product = seen
    share = product.ratio(one_call_seen)
    section.aim("≥ 0.25 × the one-call form", met=share >= 0.25, measured=f"{share:.2f} ×")
    times = product.ratio(plain)
    section.aim("≥ 4 × the plain form, 10 × as a stretch", met=times >= 4, measured=f"{times:.1f} ×")
    cpu = statistics.median(product.postgres_cpu_s) / statistics.median(one_call_seen.postgres_cpu_s)
    section.aim("PostgreSQL's CPU ≤ 1.1 × the one-call form", met=cpu <= 1.1, measured=f"{cpu:.2f} ×")
    server_ms = (statistics.median(product.postgres_cpu_s) + statistics.median(product.our_cpu_s)) * 1e3
    section.aim("≤ 1.5 ms of CPU a checkout, web and PostgreSQL", met=server_ms <= 1.5, measured=f"{server_ms:.2f} ms")


def statements(merchant: UUID, products: tuple[str, ...], *, stock_last: bool = False) -> str:
    """The checkout of one piece of each of these products, statement by statement; as a rule stock is locked first."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id::text FROM catalog_product WHERE merchant_id = %s AND product_id = ANY(%s) ORDER BY id",
            [merchant, list(products)],
        )
        ids = [f"'{row[0]}'::uuid" for row in cursor.fetchall()]
    quoted = f"'{merchant}'::uuid"
    lock = f"SELECT product_id, on_hand, reserved FROM inventory_stock WHERE product_id IN ({', '.join(ids)}) ORDER BY product_id FOR NO KEY UPDATE"
    reserve = "".join(RESERVE.format(product=product) for product in ids)
    text = STATEMENTS.format(
        cart=_cart(merchant, products),
        lock="SELECT 1" if stock_last else lock,
        items=", ".join(
            f"(md5('o' || :place)::uuid, :merchant, {product}, 'one', 'A book', 1, 100, 100)" for product in ids
        ),
        reserve=f"{lock};{reserve}" if stock_last else reserve,
    )
    answer = json.dumps(placed_answer(_plan(merchant).order).body).replace(":", ": ").replace("'", "''")
    return text.replace(":merchant", quoted).replace(":answer", f"'{answer}'::jsonb")


def one_call() -> int:
    return pgbench(
        "SELECT benchmark_checkout(nextval('benchmark_place'));\n",
        transactions=PGBENCH_CHECKOUTS,
        clients=web.CLIENTS,
        jobs=_JOBS,
    )


def carts(merchant: UUID, *, products: tuple[str, ...] = PRODUCTS) -> None:
    """What one round of `one_call` is given."""
    rows = []
    for place in range(PGBENCH_CHECKOUTS):
        plan = _plan(merchant, products)
        records = checkout.records(plan, claim(merchant), placed_answer(plan.order))
        rows.append((place + 1, *(json.dumps(records[name]) for name in _DOCUMENTS)))
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE benchmark_cart")
        with cursor.copy(f"COPY benchmark_cart (place, {', '.join(_DOCUMENTS)}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        cursor.execute("ALTER SEQUENCE benchmark_place RESTART")
        cursor.execute("ANALYZE benchmark_cart")


_DOCUMENTS = ("claim", "placed", "payment", "saga", "news", "reservation")


def _make_one_call(merchant: UUID) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_CARTS.replace("{cart}", _cart(merchant, PRODUCTS)))


def _cart(merchant: UUID, products: tuple[str, ...]) -> str:
    names = ", ".join(f"'{product}'" for product in products)
    return _CART.replace("%(products)s", f"ARRAY[{names}]").replace("%(merchant)s", f"'{merchant}'::uuid").strip()


def _plan(merchant: UUID, products: tuple[str, ...] = PRODUCTS) -> "checkout._Plan":
    wanted = [one for one in CART if one.product in products]
    return checkout._plan(merchant_id=merchant, customer=CUSTOMER, wanted=wanted, wish=PaymentWish(), hold=False)


def _statements_told(merchant: UUID, key: str, body: bytes) -> str:
    """How many statements a checkout is, seen from inside of a process."""
    from rest_framework.test import APIClient

    client = APIClient(headers={"Authorization": f"Bearer {key}", "Prefer": "respond-async"})

    def post() -> None:
        client.post("/api/v1/checkout", json.loads(body), format="json", headers={"Idempotency-Key": str(uuid4())})

    post()
    with CaptureQueriesContext(connection) as queries:
        post()
    return (
        f"{len(queries)} statements a checkout of the product's: who calls, what is offered, and all that is written."
    )


def _drain(section: Section) -> None:
    """What the checkouts have left to the workers: one process opens their payments at the sandbox, one after another."""
    from tests.sandbox_process import start_sandbox

    waiting = SagaRun.objects.filter(recipe="orders.checkout", state="running").count()
    with tempfile.TemporaryDirectory() as folder:
        sandbox = start_sandbox(Path(folder))
        settings.STRIPE_API_BASE = sandbox.url
        shares.forget()
        opened, cpu, postgres, began = _opened(), time.process_time(), postgres_cpu_s(), time.perf_counter()
        while time.perf_counter() - began < DRAIN_S:
            durability.work(Lane.OUTSIDE)
        took, cpu, postgres = time.perf_counter() - began, time.process_time() - cpu, postgres_cpu_s() - postgres
        opened = _opened() - opened
        sandbox.stop()
    section.say(
        f"Beside it, after the answer: {waiting:,} payments waited to be opened. One worker process opened {opened / took:.0f} a "
        f"second at the sandbox on this machine, for {cpu / opened * 1e6:,.0f} µs of its CPU and {postgres / opened * 1e6:,.0f} µs "
        f"of PostgreSQL's each; Stripe itself takes 100–300 ms a call, so that a process opens 3 to 10 a second there."
    )


def _opened() -> int:
    return Payment.objects.filter(provider_reference__isnull=False).count()
