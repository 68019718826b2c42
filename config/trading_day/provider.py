"""The provider's stand-in: as a customer's browser sees it (Stripe.js), and its control interface."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from threading import Lock
from typing import Any

import requests

from config.trading_day.customers import Customer
from foundation.errors import DomainError

Json = dict[str, Any]

_PUBLISHABLE_KEY = "pk_test_sandbox"
_TIMEOUT_S = 30
_ANSWER_WITHIN_S = 5 * 86_400  # waits for an answer, and alarms nobody on the first day
# Stripe's published test cards; the names are those of its test tokens (pm_card_visa).
_NUMBERS = {
    "visa": "4242424242424242",
    "visa_debit": "4000056655665556",
    "mastercard": "5555555555554444",
    "amex": "378282246310005",
    "chargeDeclined": "4000000000000002",
    "chargeDeclinedInsufficientFunds": "4000000000009995",
    "authenticationRequired": "4000002760003184",
}


class NoSandbox(DomainError):
    """There is no sandbox to trade with: the day of trading never touches a real provider account."""


class Provider:
    """Safe to use from several threads."""

    def __init__(self, url: str) -> None:
        """Raises NoSandbox."""
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False
        self._clock = Lock()
        try:
            self._ahead_s = int(self._control("GET", "clock")["advanced_s"])
        except (requests.RequestException, KeyError) as error:
            raise NoSandbox from error

    # --- as the browser -----------------------------------------------------------------------------

    def confirm(self, client_secret: str, card: str, customer: Customer) -> str:
        """What Stripe.js does with a card's number. Returns the intent's status, `declined`, or `closed`: too late."""
        fields = {
            "client_secret": client_secret,
            "payment_method_data[type]": "card",
            "payment_method_data[card][number]": _NUMBERS[card],
            "payment_method_data[card][exp_month]": "12",
            "payment_method_data[card][exp_year]": "2034",
            "payment_method_data[card][cvc]": "123",
            "payment_method_data[billing_details][name]": customer.name,
            "payment_method_data[billing_details][email]": customer.email,
            "return_url": "https://shop.example/thanks",
        }
        answer = self._session.post(
            f"{self._url}/v1/payment_intents/{_intent_of(client_secret)}/confirm",
            data=fields,
            auth=(_PUBLISHABLE_KEY, ""),
            timeout=_TIMEOUT_S,
        )
        if answer.status_code == 402:
            return "declined"
        if answer.status_code == 400 and answer.json()["error"].get("code") == "payment_intent_unexpected_state":
            return "closed"
        answer.raise_for_status()
        return str(answer.json()["status"])

    def authenticate(self, intent: str, *, passed: bool) -> None:
        """What the customer does in the bank's 3-D Secure window."""
        self._control("POST", "authenticate", {"payment_intent": intent, "outcome": "succeed" if passed else "fail"})

    # --- control ------------------------------------------------------------------------------------

    def turn_clock(self, moment: datetime | None) -> None:
        """Let the provider's objects be made at this moment from now on; None: at the real time."""
        with self._clock:
            ahead_s = int(moment.timestamp() - time.time()) if moment else 0
            if ahead_s != self._ahead_s:
                self._ahead_s = self._control("POST", "clock", {"advance_s": ahead_s - self._ahead_s})["advanced_s"]

    def plant(self, kind: str, count: int) -> None:
        """Make its books differ from ours, in silence."""
        self._control("POST", "plant", {"kind": kind, "count": count})

    @contextmanager
    def booking_after(self, seconds: int) -> Iterator[None]:
        """What is charged inside is on its books so much later."""
        before_ms = self._control("GET", "settle_after")["milliseconds"]
        self._control("POST", "settle_after", {"milliseconds": seconds * 1000})
        try:
            yield
        finally:
            self._control("POST", "settle_after", {"milliseconds": before_ms})

    def dispute(self, intent: str, *, reason: str) -> None:
        """A customer's bank takes a payment back."""
        self._control("POST", "disputes", {"payment_intent": intent, "reason": reason, "due_in_s": _ANSWER_WITHIN_S})

    def send_refund_back(self, refund: str) -> None:
        """A customer's bank cannot pass a refund on: the card is lost."""
        self._control("POST", "refunds/outcome", {"refund": refund, "status": "failed"})

    def refund_at_dashboard(self, intent: str) -> None:
        """Somebody gives a payment back at the provider's own dashboard, past us."""
        self._control("POST", "refunds", {"payment_intent": intent})

    def pay_out(self, currency: str | None = None) -> list[Json]:
        """Send everything in a currency (or in each) to our bank, where it arrives; the payouts."""
        made = self._control("POST", "payouts", {"currency": currency, "include_pending": True})["payouts"]
        return [self._control("POST", "payouts/outcome", {"payout": one["id"], "status": "paid"}) for one in made]

    def waiting_webhooks(self) -> int:
        return int(self._control("GET", "webhooks")["waiting"])

    def books(self) -> Json:
        """Its totals, minor units by currency: `captured`, `refunded`, `fees`."""
        return self._control("GET", "books")

    def _control(self, method: str, call: str, body: Json | None = None) -> Json:
        answer = self._session.request(method, f"{self._url}/_sandbox/{call}", json=body, timeout=_TIMEOUT_S)
        answer.raise_for_status()
        document: Json = answer.json()
        return document


def _intent_of(client_secret: str) -> str:
    return client_secret.partition("_secret_")[0]
