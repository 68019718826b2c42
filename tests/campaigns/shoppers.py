"""Customers and clerks, for campaigns: each a thread that never gives up on a request before it has a final answer.

They behave like a good storefront: one Idempotency-Key a request, repeated until the answer is final, whatever dies
meanwhile. What they were told is kept, because it has to be true afterwards.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import requests

from tests.campaigns.audit import Accepted

Json = dict[str, Any]

_TIMEOUT_S = 20  # a checkout waits 13 s at most for the provider
_PATIENCE_S = 150  # of a client, for one request: longer than any outage of a campaign
_AGAIN_S = (0.1, 0.2, 0.4, 0.8, 1.0)
# In use, too many, the provider does not answer; and every answer that tells of a fault of ours.
_ASK_AGAIN = ("idempotency_key_in_use", "rate_limited", "provider_unavailable")
VISA, DECLINED, AUTHENTICATION = "4242424242424242", "4000000000000002", "4000002760003184"


class NeverAnswered(Exception):
    """A request had no final answer within a client's patience."""


@dataclass
class Told:
    """What clients were answered, all threads together."""

    accepted: list[Accepted] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # keys of checkouts that made nothing
    refunds: list[str] = field(default_factory=list)  # numbers of refunds that were accepted
    statuses: dict[str, str] = field(default_factory=dict)  # order → the last status that cannot be taken back
    did: Counter[str] = field(default_factory=Counter)
    unanswered: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")  # seconds until the final answer, of what


@dataclass(frozen=True)
class Addresses:
    """Where a shop is: the API with its two keys, the provider as the customer's browser reaches it, the products."""

    url: str
    storefront_key: str
    operations_key: str
    provider: Callable[[], str]
    products: tuple[str, ...]


class Client:
    """One person at one keyboard: the API, and the provider by Stripe.js."""

    def __init__(
        self, shop: Addresses, told: Told, rng: random.Random, stopping: threading.Event | None = None
    ) -> None:
        self.shop = shop
        self.told = told
        self.rng = rng
        self._stopping = stopping or threading.Event()
        self._session = requests.Session()
        self._session.trust_env = False

    def close(self) -> None:
        self._session.close()

    def uuid(self) -> str:
        """Drawn from the seed, so that a campaign's keys can be found again."""
        return str(UUID(int=self.rng.getrandbits(128), version=4))

    def post(
        self,
        path: str,
        body: Json | None = None,
        *,
        scope: str = "operations",
        key: str = "",
        respond_async: bool = False,
    ) -> tuple[int, Json]:
        """The final answer. Raises NeverAnswered."""
        headers = {"Idempotency-Key": key or self.uuid()}
        if respond_async:
            headers["Prefer"] = "respond-async"
        return self._until_final("POST", path, scope, json=body or {}, headers=headers)

    def get(self, path: str) -> Json:
        return self._until_final("GET", path, "operations", headers={})[1]

    def _until_final(self, method: str, path: str, scope: str, *, headers: Json, **request: Any) -> tuple[int, Json]:
        secret = self.shop.storefront_key if scope == "storefront" else self.shop.operations_key
        headers = {**headers, "Authorization": f"Bearer {secret}"}
        began = time.monotonic()
        end = began + _PATIENCE_S
        last = ""
        for attempt in range(10_000):
            try:
                answer = self._session.request(
                    method, f"{self.shop.url}/api/v1{path}", headers=headers, timeout=_TIMEOUT_S, **request
                )
                document = answer.json()
            except (requests.RequestException, ValueError) as error:
                last = f"{type(error).__name__}: {error}"
            else:
                if answer.status_code < 500 and document.get("code") not in _ASK_AGAIN:
                    what = f"{method} {path}, {attempt + 1} tries, before: {last or 'nothing'}"
                    self.told.slowest = max(self.told.slowest, (time.monotonic() - began, what))
                    return answer.status_code, document
                last = f"{answer.status_code} {document.get('code')}"
            if time.monotonic() > end:
                self.told.unanswered.append(f"{method} {path} {headers.get('Idempotency-Key', '')}: {last}")
                raise NeverAnswered
            time.sleep(_AGAIN_S[min(attempt, len(_AGAIN_S) - 1)] * self.rng.uniform(0.5, 1.5))
        raise NeverAnswered

    def confirm(self, payment: Json, card: str = VISA) -> str:
        """What Stripe.js does; the intent's status, `declined`, or the code of a refusal (`…unexpected_state`: too late)."""
        fields = {
            "client_secret": payment["client_secret"],
            "payment_method_data[type]": "card",
            "payment_method_data[card][number]": card,
        }
        path = f"/v1/payment_intents/{payment['provider_reference']}/confirm"
        answer = self._provider(path, data=fields, auth=("pk_test_sandbox", ""))
        document = answer.json()
        if answer.status_code == 200:
            return str(document["status"])
        return "declined" if answer.status_code == 402 else str(document["error"].get("code"))

    def authenticate(self, payment: Json) -> None:
        """What the customer does in the bank's window; too late is too late."""
        body = {"payment_intent": payment["provider_reference"], "outcome": "succeed"}
        self._provider("/_sandbox/authenticate", json=body)

    def _provider(self, path: str, **request: Any) -> requests.Response:
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                answer = self._session.post(f"{self.shop.provider()}{path}", timeout=_TIMEOUT_S, **request)
                if answer.status_code < 500 and answer.status_code not in (409, 429):
                    return answer
            except requests.RequestException:
                pass
            if time.monotonic() > end:
                self.told.unanswered.append(f"provider {path}")
                raise NeverAnswered
            time.sleep(0.2)

    # --- What a storefront does -----------------------------------------------------------------------

    def check_out(self, *, token: str = "", respond_async: bool = False) -> Json | None:
        """A checkout, confirmed by us if there is a token. The answer's order and payment, or None if it was refused."""
        products = self.rng.sample(self.shop.products, k=self.rng.choice((1, 1, 2)))
        body: Json = {
            "customer": {"id": f"cust-{self.rng.randrange(200)}", "email": "reader@example.com"},
            "items": [{"product": product, "quantity": self.rng.choice((1, 1, 1, 2))} for product in products],
        }
        if token:
            body["payment"] = {"method": "card", "payment_method": token, "confirm": True}
        key = self.uuid()
        status, document = self.post("/checkout", body, scope="storefront", key=key, respond_async=respond_async)
        if status not in (201, 402, 424):
            self.told.did[f"refused: {document.get('code')}"] += 1
            self.told.refused.append(key)
            return None
        self.told.accepted.append(Accepted(key, document["order"]["number"]))
        self.told.did["checkouts"] += 1
        return document

    def payment_to_confirm(self, payment: Json) -> Json | None:
        """Poll until the browser may confirm; None where it will never be."""
        for _ in range(60):
            if self._stopping.is_set():
                return None
            if payment.get("client_secret"):
                return payment
            if payment["status"] in ("succeeded", "failed", "cancelled"):
                return None
            time.sleep(0.25)
            payment = self.get(f"/payments/{payment['number']}")
        return None

    def wait_paid(self, order: str, *, seconds: float = 8) -> Json | None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._stopping.is_set():
            document = self.get(f"/orders/{order}")
            if document["status"] != "pending":
                return document if document["status"] == "paid" else None
            time.sleep(0.2)
        return None

    def settling_payment(self, order: Json) -> str | None:
        paid = [payment["number"] for payment in order["payments"] if payment["status"] == "succeeded"]
        return paid[0] if len(paid) == 1 else None

    def cancel(self, order: str, *, scope: str) -> None:
        status, document = self.post(f"/orders/{order}/cancel", scope=scope)
        self.told.did["cancels"] += 1
        if status == 200 and document["status"] == "cancelled":
            self.told.statuses[order] = "cancelled"

    def refund(self, payment: str, amount: int | None) -> None:
        body = {"reason": "came damaged"} | ({"amount": amount} if amount else {})
        status, document = self.post(f"/payments/{payment}/refunds", body)
        if status == 201:
            self.told.did["refunds"] += 1
            self.told.refunds.append(document["number"])

    def ship(self, order: str) -> None:
        for _ in range(20):  # the sale may still be being posted
            status, _ = self.post(f"/orders/{order}/ship", {"carrier": "DHL", "tracking": "1"})
            if status == 200:
                self.told.statuses[order] = "shipped"
                self.told.did["shipped"] += 1
                if self.rng.random() < 0.5 and self.post(f"/orders/{order}/complete")[0] == 200:
                    self.told.statuses[order] = "completed"
                return
            if self.get(f"/orders/{order}")["status"] != "paid":
                return
            time.sleep(0.2)


# --- Journeys: one visit each ---------------------------------------------------------------------------


def confirmed_by_us(client: Client) -> None:
    placed = client.check_out(token="pm_card_visa")
    if placed:
        after_sale(client, placed["order"]["number"])


def confirmed_in_the_browser(client: Client) -> None:
    placed = client.check_out(respond_async=client.rng.random() < 0.4)
    payment = placed and client.payment_to_confirm(placed["payment"])
    if not placed or not payment:
        return
    draw = client.rng.random()
    if draw < 0.2:
        client.confirm(payment, DECLINED)
    elif draw < 0.35 and client.confirm(payment, AUTHENTICATION) == "requires_action":
        client.authenticate(payment)
    client.confirm(payment)
    after_sale(client, placed["order"]["number"])


def declined_then_another_attempt(client: Client) -> None:
    placed = client.check_out(token="pm_card_chargeDeclined")
    if placed:
        another_attempt(client, placed["order"]["number"])


def another_attempt_instead(client: Client) -> None:
    """The customer leaves one payment open and begins another."""
    placed = client.check_out()
    if placed:
        another_attempt(client, placed["order"]["number"])


def another_attempt(client: Client, order: str) -> None:
    body = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}
    client.post(f"/orders/{order}/payments", body, scope="storefront")
    client.told.did["new attempts"] += 1
    after_sale(client, order)


def cancelled_before_payment(client: Client) -> None:
    placed = client.check_out(respond_async=client.rng.random() < 0.4)
    if placed:
        client.cancel(placed["order"]["number"], scope="storefront")


def cancelled_while_paying(client: Client) -> None:
    """Two windows: one pays, the other cancels."""
    placed = client.check_out()
    payment = placed and client.payment_to_confirm(placed["payment"])
    if not placed or not payment:
        return
    twin = Client(client.shop, client.told, random.Random(client.uuid()))
    paying = threading.Thread(target=_quietly, args=(twin.confirm, payment))
    paying.start()
    client.cancel(placed["order"]["number"], scope="storefront")
    paying.join()
    twin.close()


def abandoned(client: Client) -> None:
    client.check_out()
    client.told.did["abandoned"] += 1


def refund_that_the_bank_works_on(client: Client) -> None:
    placed = client.check_out(token="pm_card_pendingRefund")
    order = placed and client.wait_paid(placed["order"]["number"])
    payment = order and client.settling_payment(order)
    if payment:
        client.refund(payment, 500)


def after_sale(client: Client, number: str) -> None:
    """What comes after a paid order: nothing, shipping, partial refunds, a cancellation."""
    order = client.wait_paid(number)
    payment = order and client.settling_payment(order)
    if not order or not payment:
        return
    client.told.did["seen paid"] += 1
    draw = client.rng.random()
    if draw < 0.25:
        client.ship(number)
    elif draw < 0.45:
        client.cancel(number, scope="operations")
    elif draw < 0.65:
        for _ in range(client.rng.choice((1, 2))):
            client.refund(payment, client.rng.randrange(1, 700))
    elif draw < 0.7:
        client.refund(payment, None)


def clerk(client: Client) -> None:
    """Restocks; deducts and puts back."""
    product = client.rng.choice(client.shop.products)
    client.post(f"/stock/{product}/restock", {"quantity": client.rng.randrange(1, 6)})
    reference = client.uuid()
    if client.post(f"/stock/{product}/deduct", {"quantity": 1, "reference": reference})[0] == 200:
        client.post(f"/stock/{product}/release", {"quantity": 1, "reference": reference})
    client.told.did["restocks"] += 1


JOURNEYS: dict[Callable[[Client], None], int] = {
    confirmed_by_us: 30,
    confirmed_in_the_browser: 25,
    declined_then_another_attempt: 8,
    another_attempt_instead: 6,
    cancelled_before_payment: 8,
    cancelled_while_paying: 6,
    abandoned: 6,
    refund_that_the_bank_works_on: 3,
    clerk: 8,
}


class Load:
    """So many shoppers at once, one visit after the other, until they are told to stop; then each ends its visit."""

    def __init__(self, shop: Addresses, *, shoppers: int, seed: str, pause_s: float = 0.1) -> None:
        self.told = Told()
        self._stopping = threading.Event()
        self._shop = shop
        self._pause_s = pause_s
        self._threads = [
            threading.Thread(target=self._shop_around, args=(random.Random(f"{seed}:{number}"),), daemon=True)
            for number in range(shoppers)
        ]
        for thread in self._threads:
            thread.start()

    def _shop_around(self, rng: random.Random) -> None:
        client = Client(self._shop, self.told, rng, self._stopping)
        while not self._stopping.is_set():
            (journey,) = rng.choices(list(JOURNEYS), weights=list(JOURNEYS.values()))
            _quietly(journey, client)
            self._stopping.wait(self._pause_s * rng.uniform(0.5, 1.5))
        client.close()

    def stop(self) -> None:
        """No new visits."""
        self._stopping.set()

    def wait(self) -> Told:
        """Until every visit has ended; what clients were told."""
        for thread in self._threads:
            thread.join(3 * _PATIENCE_S)
        return self.told


def _quietly(work: Callable[..., object], *arguments: object) -> None:
    try:
        work(*arguments)
    except NeverAnswered:
        return  # noted where it happened
