"""Everybody wants one book: sixteen connections and one row of stock, at the level of SQL."""

import itertools

from benchmarks import web
from benchmarks.checkout import _CARTS, PGBENCH_CHECKOUTS, _cart, carts, one_call, statements
from benchmarks.harness import Form, Section, measure, pgbench
from benchmarks.shop import PRODUCTS, open_shop

HOT = PRODUCTS[:1]


def run() -> None:
    from django.db import connection

    merchant = open_shop("Hot product")
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS benchmark_cart; DROP SEQUENCE IF EXISTS benchmark_place")
        cursor.execute("DROP FUNCTION IF EXISTS benchmark_checkout")
        cursor.execute(_CARTS.replace("{cart}", _cart(merchant, HOT)))
    base = itertools.count(1_000)

    def by_statements(script: str) -> int:
        variables = {"n": 0, "base": next(base) * 10**9}
        return pgbench(script, transactions=PGBENCH_CHECKOUTS, clients=web.CLIENTS, jobs=4, variables=variables)

    first, last = statements(merchant, HOT), statements(merchant, HOT, stock_last=True)
    section = Section("hot", "A hot product")
    seen = measure(
        [
            Form("a statement a table, stock locked first", lambda: by_statements(first)),
            Form("a statement a table, stock locked last", lambda: by_statements(last)),
            Form("the product: one call", one_call, lambda: carts(merchant, products=HOT)),
        ]
    )
    section.table(seen, unit="checkouts of one book, 16 clients")
    times = seen[2].ratio(seen[0])
    section.aim("≥ 2 × the statement-by-statement form", met=times >= 2, measured=f"{times:.1f} ×")
    section.close()
