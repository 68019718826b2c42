"""Checkout's first commit, in process: pricing, order, payment's intent, saga, outbox, reservation."""

from uuid import uuid4

from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from benchmarks.harness import compare
from catalog import services as catalog
from inventory import services as inventory
from orders.services import place_order
from orders.types import Customer, PaymentWish, Wanted


def run() -> None:
    merchant = catalog.create_merchant(name="Benchmark", currency="usd")
    for product in ("one", "two"):
        catalog.create_product(
            merchant_id=merchant.id, product=product, title=product, author="A", price_minor=100, currency="usd"
        )
        inventory.restock(merchant_id=merchant.id, product=product, quantity=10**6, key=product, by="benchmark")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE benchmark_floor (id uuid PRIMARY KEY, at timestamptz DEFAULT now())")

    def one_row_insert(times: int) -> None:
        for _ in range(times):
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("INSERT INTO benchmark_floor (id) VALUES (%s)", [uuid4()])

    def checkout_of_two_items(times: int) -> None:
        for _ in range(times):
            with transaction.atomic():
                place_order(
                    merchant_id=merchant.id,
                    customer=Customer("c"),
                    wanted=[Wanted("one", 1), Wanted("two", 2)],
                    wish=PaymentWish(),
                    hold=True,
                )

    with CaptureQueriesContext(connection) as queries:
        checkout_of_two_items(1)
    compare(
        f"checkout, {len(queries)} statements",
        operations=100,
        one_row_insert=one_row_insert,
        checkout_of_two_items=checkout_of_two_items,
    )
