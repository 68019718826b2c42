"""`GET /orders/{n}` over HTTP at half of what the server carries: from the cache, and with a cache that never hits."""

import itertools
import os
import statistics

from benchmarks import web
from benchmarks.harness import ROUNDS, Section, quantile
from benchmarks.shop import CART, CUSTOMER, claim, open_shop, storefront_key
from foundation.redis import client
from orders import services
from orders.types import PaymentWish
from tests.campaigns import report

ORDERS = 2_000
REQUESTS = int(os.environ.get("READS", "2000"))  # a round
SHARE_OF_CAPACITY = 0.5


def run() -> None:
    merchant = open_shop("Reads")
    key = storefront_key(merchant)
    numbers = [
        services.place_order(
            merchant_id=merchant, claim=claim(merchant), customer=CUSTOMER, wanted=CART, wish=PaymentWish(), hold=False
        ).claimed.subject
        for _ in range(ORDERS)
    ]
    section = Section("reads", "Reads of an order")
    rows, medians = [], []
    with web.product() as server:
        few, many = itertools.cycle(numbers[:50]), itertools.cycle(numbers)
        for name, order, prepare in (
            ("from the cache", lambda: next(few), lambda: None),
            ("from PostgreSQL", lambda: next(many), client().flushdb),
        ):
            ask = lambda order=order: web.request("GET", f"/api/v1/orders/{order()}", key)  # noqa: E731
            web.closed_loop(server, ask, requests=400)
            prepare()
            cpu = server.cpu_s()
            seen = web.closed_loop(server, ask, requests=REQUESTS)
            capacity = REQUESTS / sum(seen.latencies_s) * web.CLIENTS
            cpu = (server.cpu_s() - cpu) / REQUESTS
            p50s, p99s = [], []
            for _ in range(ROUNDS):
                prepare()
                seen = web.open_loop(server, ask, requests=REQUESTS, per_s=capacity * SHARE_OF_CAPACITY)
                if set(seen.statuses) != {200}:
                    raise SystemExit(f"error: the answers were {dict(seen.statuses)}")
                p50s.append(quantile(seen.latencies_s, 0.5) * 1e3)
                p99s.append(quantile(seen.latencies_s, 0.99) * 1e3)
            medians.append(statistics.median(p99s))
            times = (statistics.median(p50s), medians[-1], max(p99s))
            rows.append([name, round(capacity), round(cpu * 1e6), *(round(one, 1) for one in times)])
    header = [
        "GET /orders/{n}",
        "capacity per second",
        "our CPU µs",
        "p50 ms at half of it",
        "p99 ms",
        "p99 ms, worst round",
    ]
    section.say(report.table(header, rows))
    from_cache, from_postgres = medians
    section.aim(
        "p99 ≤ 10 ms at 50 % of capacity, from the cache", met=from_cache <= 10, measured=f"{from_cache:.1f} ms"
    )
    section.aim("the same from PostgreSQL", met=from_postgres <= 10, measured=f"{from_postgres:.1f} ms")
    section.close()
