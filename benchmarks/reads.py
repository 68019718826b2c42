"""`GET /orders/{n}` over HTTP at half of what the server carries: from the cache, and with a cache that never hits."""

import itertools
import os

from benchmarks import web
from benchmarks.harness import Section, quantile
from benchmarks.shop import CART, CUSTOMER, claim, open_shop, storefront_key
from foundation.redis import client
from orders import services
from orders.types import PaymentWish
from tests.campaigns import report

ORDERS = 2_000
REQUESTS = int(os.environ.get("READS", "4000"))
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
    rows, worst = [], 0.0
    with web.product() as server:
        few, many = itertools.cycle(numbers[:50]), itertools.cycle(numbers)
        for name, order, prepare in (
            ("from the cache", lambda: next(few), lambda: None),
            ("from PostgreSQL", lambda: next(many), client().flushdb),
        ):
            ask = lambda order=order: web.request("GET", f"/api/v1/orders/{order()}", key)  # noqa: E731
            web.closed_loop(server, ask, requests=400)
            prepare()
            requests = REQUESTS if name == "from the cache" else ORDERS
            cpu = server.cpu_s()
            seen = web.closed_loop(server, ask, requests=requests)
            capacity = requests / sum(seen.latencies_s) * web.CLIENTS
            cpu = (server.cpu_s() - cpu) / requests
            prepare()
            seen = web.open_loop(server, ask, requests=requests, per_s=capacity * SHARE_OF_CAPACITY)
            if set(seen.statuses) != {200}:
                raise SystemExit(f"error: the answers were {dict(seen.statuses)}")
            p50, p99 = (quantile(seen.latencies_s, share) * 1e3 for share in (0.5, 0.99))
            worst = max(worst, p99)
            rows.append([name, round(capacity), round(cpu * 1e6), round(p50, 1), round(p99, 1)])
    header = ["GET /orders/{n}", "capacity per second", "our CPU µs", "p50 ms at half of it", "p99 ms at half of it"]
    section.say(report.table(header, rows))
    section.aim("p99 ≤ 10 ms at 50 % of capacity", met=worst <= 10, measured=f"{worst:.1f} ms")
    section.close()
