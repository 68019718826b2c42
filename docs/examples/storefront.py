"""A storefront's client of Everycent: plain Python, nothing to install. Copy it; docs/storefront.md explains it.

    EVERYCENT_URL=http://127.0.0.1:8000 EVERYCENT_KEY=ek_… python docs/examples/storefront.py shop.sqlite3 cart-1 the-trial=2

It checks a cart out, hands what the buyer's browser needs to the page, and waits until the order is paid. Killed at any moment and started
again with the same cart, it goes on with the same order: what it is about to ask for is remembered before it is sent.
"""

import json
import os
import random
import sqlite3
import sys
import time
import uuid
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

Json = dict[str, Any]

TIMEOUT_S = 30  # a checkout waits up to 10 s for the payment provider: longer means that nobody is there
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30
GIVE_UP_AFTER_S = 120  # for now: whoever asks again, in an hour or tomorrow, does so under the same key
POLL_S = 1


class Refused(Exception):
    """The API said no: `code` says why, `problem` is all that it said."""

    def __init__(self, status: int, problem: Json, retry_after: str = "") -> None:
        self.status, self.problem = status, problem
        self.retry_after_s = int(retry_after) if retry_after.isdigit() else 0
        self.code = problem.get("code", "")
        super().__init__(f"{status} {self.code}: {problem.get('detail')} (request {problem.get('request_id')})")


class Unanswered(Exception):
    """Nobody knows whether it was done: the same request has to be sent again later."""


class Api:
    """The calls, repeated where that is right."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = f"{url}/api/v1", key

    def get(self, path: str, **parameters: str) -> Json:
        return self._send("GET", f"{path}?{urlencode(parameters)}" if parameters else path)

    def pages(self, path: str, **parameters: str) -> Iterator[Json]:
        """Every row of a list."""
        page = self.get(path, **parameters)
        yield from page["data"]
        while page["has_more"]:
            page = self.get(path, **parameters, cursor=page["next_cursor"])
            yield from page["data"]

    def post(self, path: str, body: Json, *, key: str) -> Json:
        """`key`: one for one thing to be done. Raises Refused, or Unanswered after GIVE_UP_AFTER_S."""
        return self._send("POST", path, body, {"Idempotency-Key": key})

    def _send(self, method: str, path: str, body: Json | None = None, headers: dict[str, str] | None = None) -> Json:
        give_up_at = time.monotonic() + GIVE_UP_AFTER_S
        pause_s = FIRST_PAUSE_S
        while True:
            wait_s = pause_s * random.uniform(0.5, 1)  # noqa: S311  so that a crowd does not come back at once
            try:
                return self._once(method, path, body, headers or {})
            except Refused as refusal:
                if not may_be_sent_again(refusal):
                    raise
                wait_s = max(wait_s, refusal.retry_after_s)
                said: Exception = refusal
            except (OSError, HTTPException, json.JSONDecodeError) as error:  # cut off, timed out, or half an answer
                said = error
            if time.monotonic() + wait_s > give_up_at:
                raise Unanswered(f"{method} {path}: {said}") from said
            time.sleep(wait_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _once(self, method: str, path: str, body: Json | None, headers: dict[str, str]) -> Json:
        """One try. Raises Refused, or whatever the network does."""
        request = Request(  # noqa: S310  the address is ours
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._key}", "Content-Type": "application/json", **headers},
        )
        try:
            with urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                document: Json = json.load(answer)
                return document
        except HTTPError as error:
            raise Refused(error.code, _problem(error.read()), error.headers.get("Retry-After", "")) from None


def may_be_sent_again(refusal: Refused) -> bool:
    """The same request, with the same key, may be answered in a moment."""
    return refusal.status in (429, 500, 502, 503, 504) or refusal.code == "idempotency_key_in_use"


def _problem(raw: bytes) -> Json:
    """A proxy in between may answer with a page."""
    try:
        document = json.loads(raw)
    except ValueError:
        return {"detail": raw[:200].decode(errors="replace")}
    return document if isinstance(document, dict) else {}


class Remembered:
    """What was asked for, by a name of ours: in our own database, so that a crash does not make it a second request."""

    def __init__(self, path: str, api: Api) -> None:
        self._api = api
        self._database = sqlite3.connect(path, timeout=30)
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS request (name TEXT PRIMARY KEY, key TEXT, path TEXT, body TEXT)"
        )

    def post(self, name: str, path: str, body: Json) -> Json:
        """POST under the key that this name got when it was used first. The answer is not kept: it holds a secret."""
        with self._database:  # committed before anything is sent
            self._database.execute(
                "INSERT INTO request (name, key, path, body) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [name, str(uuid.uuid4()), path, json.dumps(body)],
            )
        row = self._database.execute("SELECT key, path, body FROM request WHERE name = ?", [name]).fetchone()
        return self._api.post(row[1], json.loads(row[2]), key=row[0])

    def forget(self, name: str) -> None:
        """After a refusal that changed nothing: what is asked for next is another request."""
        with self._database:
            self._database.execute("DELETE FROM request WHERE name = ?", [name])


def check_out(requests: Remembered, cart: str, customer: Json, items: list[Json]) -> Json:
    """`{order, payment}`. Called again with this cart, after a crash too, it is the same order. Raises Refused, Unanswered."""
    try:
        return requests.post(f"checkout {cart}", "/checkout", {"customer": customer, "items": items})
    except Refused as refusal:
        if refusal.status in (402, 424):  # the order stands; only the payment did not come about
            return {"order": refusal.problem["order"], "payment": refusal.problem["payment"]}
        requests.forget(f"checkout {cart}")
        raise


def payment_to_confirm(api: Api, requests: Remembered, number: str) -> Json | None:
    """The payment that the browser can confirm now; None where there is none any more: the order is paid, or cancelled."""
    while True:
        order = api.get(f"/orders/{number}")
        if order["status"] != "pending":
            return None
        last = order["payments"][-1]
        if last["status"] in ("failed", "cancelled"):
            last = pay_again(requests, order) or last
        payment = api.get(f"/payments/{last['number']}")
        if "client_secret" in payment:
            return payment
        time.sleep(POLL_S)  # it is being opened, or it is paid and the order about to be


def pay_again(requests: Remembered, order: Json) -> Json | None:
    """Another payment for an order whose last one has failed. None where the order has moved on: look at it again."""
    attempt = f"payment {len(order['payments']) + 1} of {order['number']}"
    try:
        return requests.post(attempt, f"/orders/{order['number']}/payments", {"method": "card"})
    except Refused as refusal:
        if refusal.status != 409:
            raise
        return None


def for_the_browser(payment: Json) -> Json:
    """What the page gives to Stripe.js. The secret belongs there alone: into no log, no table, no address."""
    return {"client_secret": payment["client_secret"], "order": payment["order"]}


def wait_until_settled(api: Api, number: str) -> Json:
    """The order once it is paid, or cancelled because nobody paid in time."""
    while True:
        order = api.get(f"/orders/{number}")
        if order["status"] != "pending":
            return order
        time.sleep(POLL_S)


def main(database: str, cart: str, *lines: str) -> int:
    api = Api(os.environ["EVERYCENT_URL"], os.environ["EVERYCENT_KEY"])
    requests = Remembered(database, api)
    wanted = {product: int(quantity) for product, _, quantity in (line.rpartition("=") for line in lines)}
    for product in api.pages("/products", ids=",".join(wanted)):
        print(
            f"{wanted[product['id']]} × {product['title']}, {product['price']} {product['currency']} each (minor units)"
        )
    items = [{"product": product, "quantity": quantity} for product, quantity in wanted.items()]
    try:
        order = check_out(requests, cart, {"id": "c1", "email": "reader@example.com"}, items)["order"]
        print(f"order {order['number']}: {order['total']} {order['currency']}")
        payment = payment_to_confirm(api, requests, order["number"])
    except Refused as refusal:
        print(f"refused: {refusal}", file=sys.stderr)
        for short in refusal.problem.get("errors", []):
            print(f"only {short['available']} of {short['product']} are left", file=sys.stderr)
        return 1
    if payment:
        print("for the browser:", json.dumps(for_the_browser(payment)))
        if "STRIPE_SANDBOX_URL" in os.environ:
            confirm_at_the_sandbox(os.environ["STRIPE_SANDBOX_URL"], payment)
    order = wait_until_settled(api, order["number"])
    print(f"order {order['number']} is {order['status']}")
    return 0 if order["status"] == "paid" else 1


def confirm_at_the_sandbox(url: str, payment: Json) -> None:
    """What Stripe.js does in the buyer's browser, for a trial without one: nothing that a server of yours does."""
    form = {"client_secret": payment["client_secret"], "payment_method": "pm_card_visa"}
    request = Request(  # noqa: S310
        f"{url}/v1/payment_intents/{payment['provider_reference']}/confirm",
        data=urlencode(form).encode(),
        headers={"Authorization": "Bearer pk_test_sandbox"},
    )
    with urlopen(request, timeout=TIMEOUT_S):  # noqa: S310
        pass


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
