"""`make flash-sale`: 500 buyers press the button at once, and there are 50 copies of one book.

The whole stack of `make up`, on its own servers. Each buyer asks to have the payment opened later (`Prefer:
respond-async`), so that nobody's request waits for the provider, who answers the first calls with 429. A buyer who got a
copy then polls for the secret that the browser confirms with, as a storefront does.
"""

import os
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import psycopg
import requests

from tests.campaigns import report
from tests.campaigns.arrivals import quantile
from tests.campaigns.audit import audit
from tests.campaigns.rest import NeverAtRest, wait_for_rest
from tests.stack_process import ROOT, RunningStack

FOLDER = ROOT / "var" / "flash-sale"
BUYERS, COPIES, REFUSALS_429 = 500, 50, 100
BOOK = "the-book-of-the-year"
_TIMEOUT_S = 60
_POLL_EVERY_S = 0.25
_OPENED_WITHIN_S = 120

Json = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    status: int
    code: str  # of a problem; empty for a success
    latency_s: float
    payment: str


@dataclass
class Sale:
    """What a sale came to. Seconds since the first request was sent."""

    buyers: int
    copies: int
    answers: list[Answered] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    took_s: float = 0.0
    opened_s: list[float] = field(default_factory=list)  # when each buyer with a copy had its secret
    books: Json = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)


def run(*, buyers: int, copies: int, refusals: int) -> Sale:
    sale = Sale(buyers, copies)
    stack = RunningStack(FOLDER / "var")
    try:
        stack.start()
        info = stack.info
        _stock(info, copies)
        fault = {"match": "POST /v1/payment_intents", "kind": "rate_limit", "times": refusals}
        requests.post(f"{info['stripe_api_base']}/_sandbox/faults", json=fault, timeout=10).raise_for_status()
        began = _press_the_button(info, sale)
        _poll_for_secrets(info, sale, began)
        try:
            wait_for_rest(stack, info["stripe_api_base"], timeout_s=_OPENED_WITHIN_S)
        except NeverAtRest as error:
            sale.findings.append(f"never at rest: {error}")
        sale.books = _books(info["database_url"])
        seen = audit(info["database_url"], info["stripe_api_base"], slack_s=15)
        sale.findings += map(str, seen.findings)
    finally:
        stack.stop()
    sale.findings += _wrong(sale)
    return sale


def _stock(info: Json, copies: int) -> None:
    def post(path: str, body: Json) -> None:
        headers = {"Authorization": f"Bearer {info['operations_key']}", "Idempotency-Key": str(uuid4())}
        requests.post(f"{info['url']}/api/v1{path}", json=body, headers=headers, timeout=10).raise_for_status()

    post("/products", {"id": BOOK, "title": "The Book of the Year", "author": "A", "price": 1500, "currency": "usd"})
    post(f"/stock/{BOOK}/restock", {"quantity": copies})


def _press_the_button(info: Json, sale: Sale) -> float:
    """All at once. Returns when."""
    ready, lock = threading.Barrier(sale.buyers + 1), threading.Lock()

    def buy(number: int) -> None:
        headers = {
            "Authorization": f"Bearer {info['storefront_key']}",
            "Idempotency-Key": str(uuid4()),
            "Prefer": "respond-async",
        }
        body = {"customer": {"id": f"buyer-{number}"}, "items": [{"product": BOOK, "quantity": 1}]}
        ready.wait()
        began = time.monotonic()
        try:
            answer = requests.post(f"{info['url']}/api/v1/checkout", json=body, headers=headers, timeout=_TIMEOUT_S)
            document = answer.json()
        except (requests.RequestException, ValueError) as error:
            with lock:
                sale.unanswered.append(f"{type(error).__name__}: {error}")
            return
        payment = document.get("payment", {}).get("number", "")
        told = Answered(answer.status_code, document.get("code", ""), time.monotonic() - began, payment)
        with lock:
            sale.answers.append(told)

    threads = [threading.Thread(target=buy, args=[number]) for number in range(sale.buyers)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.monotonic()
    for thread in threads:
        thread.join()
    sale.took_s = time.monotonic() - began
    return began


def _poll_for_secrets(info: Json, sale: Sale, began: float) -> None:
    """One storefront, for all of its buyers in turn."""
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {info['storefront_key']}"
    waiting = [told.payment for told in sale.answers if told.payment]
    while waiting and time.monotonic() - began < _OPENED_WITHIN_S:
        for payment in list(waiting):
            document = session.get(f"{info['url']}/api/v1/payments/{payment}", timeout=_TIMEOUT_S).json()
            if document.get("client_secret"):
                sale.opened_s.append(time.monotonic() - began)
                waiting.remove(payment)
        time.sleep(_POLL_EVERY_S)
    sale.findings += [f"{payment} was never opened" for payment in waiting]


def _books(database_url: str) -> Json:
    with psycopg.connect(database_url, autocommit=True) as connection:
        row = connection.execute(
            """
            SELECT (SELECT count(*) FROM orders_order) AS orders, (SELECT count(*) FROM payments_payment) AS payments,
                   (SELECT count(*) FROM durability_idempotencykey WHERE path = '/api/v1/checkout') AS keys,
                   stock.on_hand, stock.reserved,
                   (SELECT sum(reserved) FROM inventory_stockhold) AS held,
                   (SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()) AS deadlocks
            FROM inventory_stock stock JOIN catalog_product ON catalog_product.id = stock.product_id WHERE catalog_product.product_id = %s
            """,
            [BOOK],
        ).fetchone()
    assert row
    return dict(zip(("orders", "payments", "keys", "on_hand", "reserved", "held", "deadlocks"), row, strict=True))


def _wrong(sale: Sale) -> list[str]:
    """Everything that is not as it must be."""
    answers = Counter((told.status, told.code) for told in sale.answers)
    wanted = {(201, ""): sale.copies, (409, "insufficient_stock"): sale.buyers - sale.copies}
    found = [f"a buyer was not answered: {one}" for one in sale.unanswered]
    found += [
        f"{count} buyers were answered {told}, not {wanted.get(told, 0)}"
        for told, count in answers.items()
        if wanted.get(told, 0) != count
    ]
    books = {
        **dict.fromkeys(("orders", "payments", "keys", "on_hand", "reserved", "held"), sale.copies),
        "deadlocks": 0,
    }
    found += [
        f"{name}: {sale.books.get(name)}, not {count}" for name, count in books.items() if sale.books.get(name) != count
    ]
    return found


def summary(sale: Sale) -> str:
    rows: list[list[object]] = []
    kinds: list[tuple[str, Callable[[Answered], bool]]] = [
        ("201, a copy is theirs", lambda told: told.status == 201),
        ("409 `insufficient_stock`", lambda told: told.code == "insufficient_stock"),
        ("anything else", lambda told: told.status != 201 and told.code != "insufficient_stock"),
    ]
    for name, belongs in kinds:
        waited = [told.latency_s for told in sale.answers if belongs(told)]
        rows.append(
            [name, len(waited), *(_ms(quantile(waited, share)) for share in (0.5, 0.99)), _ms(max(waited, default=0))]
        )
    opened: Sequence[float] = sorted(sale.opened_s) or [0.0]
    facts: list[list[object]] = [
        ["all 500 answered after, s" if sale.buyers == BUYERS else "all answered after, s", round(sale.took_s, 2)],
        ["without an answer", len(sale.unanswered)],
        *(
            [name, sale.books.get(name, 0)]
            for name in ("orders", "payments", "keys", "on_hand", "reserved", "deadlocks")
        ),
        ["429s of the provider's before it opened anything", REFUSALS_429],
        ["first buyer had the secret after, s", round(opened[0], 1)],
        ["last buyer had the secret after, s", round(opened[-1], 1)],
        ["findings of the auditor and of this table", len(sale.findings)],
    ]
    return "\n\n".join(
        [
            f"{report.heading()}; `make flash-sale`.",
            report.table(["answer", "buyers", "p50, ms", "p99, ms", "longest, ms"], rows),
            report.table(["", "total"], facts),
            *(f"- {one}" for one in sale.findings),
        ]
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def main() -> int:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    buyers = int(os.environ.get("BUYERS") or BUYERS)
    copies = int(os.environ.get("COPIES") or COPIES)
    sale = run(buyers=buyers, copies=copies, refusals=REFUSALS_429)
    text = summary(sale)
    print(text, flush=True)
    if sale.findings:
        print(f"error: {len(sale.findings)} findings", file=sys.stderr)
        return 1
    if report.told_to_write():
        report.write_section(report.PERFORMANCE, "flash-sale", text)
    shutil.rmtree(FOLDER, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
