"""Timeouts and 500s are not failures: nothing is charged twice, nothing is forgotten."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.db.models.functions import Now

from payments import gateway
from payments import services as payments
from payments.errors import ProviderUnsure
from payments.models import Payment, Refund
from tests.shop import settle

CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}


def fault(sandbox, kind: str, times: int = 1) -> None:
    sandbox.control("POST", "faults", {"match": "POST /v1/payment_intents", "kind": kind, "times": times})


def charges(sandbox):
    return sandbox.control("GET", "books")["charges"]


@pytest.mark.guard(1)
def test_a_500_after_the_charge_is_one_charge(shop, sandbox):
    before = charges(sandbox)
    fault(sandbox, "error_500_after")
    answer = shop.checkout(payment=CONFIRMED)
    assert answer.json()["payment"]["status"] == "processing"
    settle()
    order = shop.order(answer.json()["order"]["number"])
    assert order["status"] == "paid"
    assert charges(sandbox) == before + 1


def test_a_rate_limit_only_delays(shop, sandbox):
    before = charges(sandbox)
    fault(sandbox, "rate_limit")
    answer = shop.checkout(payment=CONFIRMED)
    settle()
    assert shop.order(answer.json()["order"]["number"])["status"] == "paid"
    assert charges(sandbox) == before + 1


def test_a_500_before_the_effect_is_never_resent_and_ends_in_a_refusal(shop, sandbox, settings):
    settings.PROVIDER_LOOKUP_GRACE_S = 0
    before = charges(sandbox)
    fault(sandbox, "error_500")
    answer = shop.checkout(payment=CONFIRMED)
    settle()
    order = shop.order(answer.json()["order"]["number"])
    assert (order["status"], order["payments"][0]["status"]) == ("cancelled", "failed")
    assert charges(sandbox) == before
    assert shop.level() == (10, 0)


def test_a_refund_whose_answer_was_lost_is_made_once(shop, sandbox):
    payment = shop.bought()["payments"][0]["number"]
    sandbox.control("POST", "faults", {"match": "POST /v1/refunds", "kind": "error_500_after", "times": 1})
    shop.post(f"/payments/{payment}/refunds", {"reason": "x"})
    settle()
    assert shop.storefront.get(f"/api/v1/payments/{payment}").json()["amount_refunded"] == 1500


def test_a_500_after_the_effect_of_a_late_try_is_not_a_refusal(shop, sandbox, settings):
    """The process died between the note of the first send and the sending: the first real try comes long after it."""
    settings.PROVIDER_LOOKUP_GRACE_S = 0
    answer = shop.checkout(payment=CONFIRMED, headers={"Prefer": "respond-async"})
    Payment.objects.update(first_sent_at=Now())
    fault(sandbox, "error_500_after")
    before = charges(sandbox)
    settle()
    assert shop.order(answer.json()["order"]["number"])["status"] == "paid"
    assert charges(sandbox) == before + 1


def test_a_500_that_nobody_lived_to_write_down_is_looked_up_before_it_counts(shop, sandbox, settings):
    """The payment is `pending` still, the provider has the charge and replays its 500 for ever."""
    answer = shop.checkout(payment=CONFIRMED, headers={"Prefer": "respond-async"})
    payment = Payment.objects.get()
    fault(sandbox, "error_500_after")
    payments.open_at_provider(payment.number)  # and its process dies
    settings.PROVIDER_LOOKUP_GRACE_S = 0
    settle(webhooks=False)
    assert shop.order(answer.json()["order"]["number"])["status"] == "paid"


def test_a_500_after_the_effect_of_a_late_refund_is_not_a_refusal(shop, sandbox, settings):
    settings.PROVIDER_LOOKUP_GRACE_S = 0
    payment = shop.bought()["payments"][0]["number"]
    shop.post(f"/payments/{payment}/refunds", {"reason": "x"})
    Refund.objects.update(first_sent_at=Now())
    sandbox.control("POST", "faults", {"match": "POST /v1/refunds", "kind": "error_500_after", "times": 1})
    settle(webhooks=False)
    assert Refund.objects.get().status == "succeeded"


def test_a_lost_answer_is_asked_for_under_the_same_key_before_anything_is_listed(shop, sandbox, settings, monkeypatch):
    """Or each doubt of a busy shop would read all its payments of that time."""
    settings.PROVIDER_READ_TIMEOUT_S = 1
    before = charges(sandbox)
    fault(sandbox, "timeout_after")
    answer = shop.checkout(payment=CONFIRMED)
    assert answer.json()["payment"]["status"] == "processing"
    settings.PROVIDER_READ_TIMEOUT_S = 10
    monkeypatch.setattr(gateway, "find_intent", unlisted)
    settle(webhooks=False)
    assert shop.order(answer.json()["order"]["number"])["status"] == "paid"
    assert charges(sandbox) == before + 1


def unlisted(number: str, **_: object) -> None:
    raise AssertionError("nothing is to be listed")


def test_a_look_up_reads_what_was_made_between_the_first_and_the_last_send(shop):
    answer = shop.checkout(payment=CONFIRMED).json()["payment"]["number"]
    sent = Payment.objects.get()
    assert sent.first_sent_at
    assert sent.first_sent_at == sent.last_sent_at
    assert gateway.find_intent(answer, since=sent.first_sent_at, until=sent.last_sent_at)
    assert (
        gateway.find_intent(
            answer, since=sent.first_sent_at - timedelta(hours=2), until=sent.last_sent_at - timedelta(hours=1)
        )
        is None
    )


@pytest.mark.parametrize("sent_again", [False, True])
def test_the_moment_of_the_last_send_is_kept(shop, sandbox, sent_again):
    fault(sandbox, "rate_limit")
    shop.checkout(payment=CONFIRMED)
    if sent_again:
        settle(webhooks=False)
    sent = Payment.objects.get()
    assert sent.first_sent_at
    assert sent.last_sent_at
    assert (sent.last_sent_at > sent.first_sent_at) is sent_again


# --- Answers that nobody can read -------------------------------------------------------------------


@pytest.mark.guard(1)
def test_an_answer_that_is_cut_short_is_no_refusal(shop, sandbox):
    before = charges(sandbox)
    fault(sandbox, "cut_short")
    answer = shop.checkout(payment=CONFIRMED)
    assert (answer.status_code, answer.json()["payment"]["status"]) == (201, "processing")
    settle(webhooks=False)
    assert shop.order(answer.json()["order"]["number"])["status"] == "paid"
    assert charges(sandbox) == before + 1


def test_a_refund_whose_answer_is_cut_short_keeps_its_amount_and_is_made_once(shop, sandbox):
    payment = shop.bought()["payments"][0]["number"]
    before = sandbox.books()["refunded"].get("usd", 0)
    sandbox.control("POST", "faults", {"match": "POST /v1/refunds", "kind": "cut_short", "times": 1})
    shop.post(f"/payments/{payment}/refunds", {"reason": "x"})
    settle(webhooks=False)
    assert Refund.objects.get().status == "succeeded"
    assert sandbox.books()["refunded"]["usd"] == before + 1500


@pytest.mark.parametrize("status", [200, 302, 403, 404, 502])
def test_a_page_that_is_not_the_providers_tells_nothing(settings, status):
    with stranger(status, b"<html>Blocked by your network. pi_1_secret_abc</html>") as url:
        settings.STRIPE_API_BASE = url
        with pytest.raises(ProviderUnsure) as doubt:
            gateway.retrieve_intent("pi_1")
    assert (doubt.value.final, "secret" in str(doubt.value)) == (False, False)


@contextmanager
def stranger(status: int, page: bytes) -> Iterator[str]:
    """Something between us and the provider that answers in its place."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
