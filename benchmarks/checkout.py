"""Checkout's first commit, in process: pricing, order, payment's intent, saga, outbox, reservation."""

from uuid import uuid4

from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from benchmarks.harness import Form, Section, measure
from catalog import services as catalog
from inventory import services as inventory
from orders.services import place_order
from orders.types import Customer, PaymentWish, Wanted

CHECKOUTS = 200


def run() -> None:
    merchant = catalog.create_merchant(name="Checkout", currency="usd")
    for product in ("one", "two"):
        catalog.create_product(
            merchant_id=merchant.id, product=product, title=product, author="A", price_minor=100, currency="usd"
        )
        inventory.restock(merchant_id=merchant.id, product=product, quantity=10**6, key=product, by="benchmark")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE benchmark_floor (id uuid PRIMARY KEY, at timestamptz DEFAULT now())")

    def insert() -> int:
        for _ in range(CHECKOUTS):
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("INSERT INTO benchmark_floor (id) VALUES (%s)", [uuid4()])
        return CHECKOUTS

    def place(times: int = CHECKOUTS) -> int:
        for _ in range(times):
            with transaction.atomic():
                place_order(
                    merchant_id=merchant.id,
                    customer=Customer("c"),
                    wanted=[Wanted("one", 1), Wanted("two", 2)],
                    wish=PaymentWish(),
                    hold=True,
                )
        return times

    with CaptureQueriesContext(connection) as queries:
        place(1)
    section = Section("checkout", "Checkout's first commit")
    section.table(
        measure([Form("floor: insert one row, commit", insert), Form("two items, in one process", place)]),
        unit=f"{CHECKOUTS:,} checkouts",
    )
    section.say(f"{len(queries)} statements a checkout, BEGIN and COMMIT among them.")
    section.close()
