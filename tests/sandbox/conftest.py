"""The sandbox as a process, the official SDK pointed at it, and an endpoint that receives its webhooks."""

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
import stripe

from tests.sandbox_process import SECRET_KEY, SandboxProcess, start_sandbox

ORDER = {"payment": "pay_1", "order": "ord_1", "merchant": "mer_1", "instance": "test"}
CARD_ONLY = {"enabled": True, "allow_redirects": "never"}


def client_of(sandbox: SandboxProcess, key: str = SECRET_KEY) -> Any:
    """A StripeClient; Any, because a test passes wrong parameters on purpose."""
    http = stripe.RequestsClient(timeout=(3, 10))
    return stripe.StripeClient(key, base_addresses={"api": sandbox.url}, max_network_retries=0, http_client=http)


class Shop:
    """What a merchant's server does with the SDK, in one word each."""

    def __init__(self, sandbox: SandboxProcess) -> None:
        self.sandbox = sandbox
        self.client = client_of(sandbox)
        self.v1 = self.client.v1

    def open(self, amount: int = 2500, currency: str = "usd", **params):
        params = {"metadata": ORDER, "automatic_payment_methods": CARD_ONLY, **params}
        return self.v1.payment_intents.create({"amount": amount, "currency": currency, **params})

    def pay(self, amount: int = 2500, currency: str = "usd", card: str = "pm_card_visa", **params):
        return self.open(amount, currency, payment_method=card, confirm=True, **params)

    def refund(self, intent, amount: int | None = None, **params):
        params |= {} if amount is None else {"amount": amount}
        return self.v1.refunds.create({"payment_intent": intent.id, "metadata": {"refund": "ref_1"}, **params})

    def charge_of(self, intent):
        return self.v1.charges.retrieve(self.v1.payment_intents.retrieve(intent.id).latest_charge)

    def event_types(self) -> list[str]:
        """Oldest first."""
        return [event.type for event in self.v1.events.list({"limit": 100}).data][::-1]

    def http(self, method: str, path: str, data: dict | None = None, key: str | None = SECRET_KEY, **headers):
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return requests.request(method, self.sandbox.url + path, data=data, headers=headers, timeout=10)


@pytest.fixture(scope="module")
def shared_shop(tmp_path_factory):
    """One sandbox for a module's tests that do not change its settings."""
    sandbox = start_sandbox(tmp_path_factory.mktemp("sandbox"))
    yield Shop(sandbox)
    sandbox.stop()


@pytest.fixture
def start(tmp_path):
    """Start a sandbox that is the test's own."""
    started = []

    def start(**options) -> Shop:
        sandbox = start_sandbox(tmp_path, **options)
        started.append(sandbox)
        return Shop(sandbox)

    yield start
    for sandbox in started:
        sandbox.kill()


@pytest.fixture(scope="session")
def reset_sandbox(tmp_path_factory):
    sandbox = start_sandbox(tmp_path_factory.mktemp("reset-sandbox"))
    yield sandbox
    sandbox.kill()


@pytest.fixture
def shop(reset_sandbox) -> Shop:
    """An empty sandbox without webhooks; a test may kill it."""
    if reset_sandbox.process.poll() is not None:
        reset_sandbox.restart()
    reset_sandbox.control("POST", "reset")
    return Shop(reset_sandbox)


class Inbox:
    """A webhook endpoint: keeps what arrives, answers `status`."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, str]] = []  # body, signature
        self.status = 200
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                inbox.received.append((body, self.headers["Stripe-Signature"]))
                self.send_response(inbox.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_args) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?from=sandbox"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def events(self) -> list[stripe.Event]:
        """Each with its signature checked by the SDK."""
        return [stripe.Webhook.construct_event(body, header, "whsec_sandbox") for body, header in list(self.received)]

    def types(self) -> list[str]:
        return [event.type for event in self.events()]


@pytest.fixture(scope="module")
def shared_inbox():
    inbox = Inbox()
    yield inbox
    inbox.server.shutdown()
    inbox.server.server_close()


@pytest.fixture(scope="module")
def shared_webhook_shop(shared_inbox, tmp_path_factory):
    """A sandbox that posts its webhooks to shared_inbox."""
    sandbox = start_sandbox(tmp_path_factory.mktemp("sandbox"), webhook_url=shared_inbox.url)
    yield Shop(sandbox)
    sandbox.kill()


@pytest.fixture
def inbox():
    inbox = Inbox()
    yield inbox
    inbox.server.shutdown()
    inbox.server.server_close()


def error_of(refusal: pytest.ExceptionInfo[stripe.StripeError]) -> Any:
    """The `error` member of the answer, which the SDK types as optional."""
    return refusal.value.error


def eventually(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
