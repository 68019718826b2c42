"""Merchants' own systems are told, signed, for a day, again when asked; and one that is slow delays no other."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.db import connection, connections
from django.db.models import F
from django.db.models.functions import Now
from django.utils.dateparse import parse_datetime

from catalog import services as catalog
from catalog.models import Merchant
from foundation.errors import IllegalTransition, InvalidInput
from foundation.webhooks import signature
from orders.models import MerchantCall, Order
from orders.services import expire_due, merchant_calls, rearm
from tests.shop import Shop, open_shop, settle


class Merchants:
    """Merchants' servers at one address: what each path heard, and which of them do not answer, or refuse."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, dict[str, str], bytes]] = []
        self.silent: set[str] = set()
        self.broken: set[str] = set()
        self.url = ""
        self.let_go = threading.Event()
        self.rings = threading.Event()  # somebody silent was called

    def ids(self, path: str) -> list[str]:
        return [message_id for heard, message_id, _, _ in self.heard if heard == path]

    def types(self, path: str) -> Counter[str]:
        return Counter(json.loads(body)["type"] for heard, _, _, body in self.heard if heard == path)


@pytest.fixture
def merchants(settings) -> Iterator[Merchants]:
    all_of_them = Merchants()

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            all_of_them.heard.append((self.path, headers["webhook-id"], headers, body))
            if self.path in all_of_them.silent:
                all_of_them.rings.set()
                all_of_them.let_go.wait(20)
            self.send_response(500 if self.path in all_of_them.broken else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # we hung up
                return

    settings.WEBHOOK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    merchant_calls.forget_rests()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        all_of_them.url = f"http://127.0.0.1:{server.server_port}"
        yield all_of_them
        all_of_them.let_go.set()
        server.shutdown()


def wants_to_be_told(shop: Shop, url: str) -> None:
    Merchant.objects.filter(pk=shop.merchant_id).update(webhook_url=url)


@pytest.fixture
def told(shop: Shop, merchants: Merchants) -> Shop:
    """A shop whose system listens at /a."""
    wants_to_be_told(shop, f"{merchants.url}/a")
    return shop


def pending(shop: Shop, count: int = 1, *, late_s: float = 0) -> list[MerchantCall]:
    """Calls that are due, as a handler writes them."""
    return MerchantCall.objects.bulk_create(
        MerchantCall(
            merchant_id=shop.merchant_id,
            event="orders.order_paid.v1",
            subject=f"ord_{number}",
            payload={"order": f"ord_{number}"},
            available_at=Now() - timedelta(seconds=late_s),
        )
        for number in range(count)
    )


def make_due() -> None:
    MerchantCall.objects.filter(state="pending").update(available_at=Now())
    merchant_calls.forget_rests()


# --- What is told -----------------------------------------------------------------------------------


def test_a_merchant_is_told_of_a_sale_and_can_prove_that_it_is_us(told, merchants):
    order = told.bought()
    ((_, message_id, headers, body),) = merchants.heard
    document = json.loads(body)
    assert document["type"] == "orders.order_paid.v1"
    assert parse_datetime(document["timestamp"])
    assert (document["data"]["order"], document["data"]["amount_minor"]) == (order["number"], 1500)
    secret = Merchant.objects.get(pk=told.merchant_id).webhook_secret
    stamp = int(headers["webhook-timestamp"])
    assert abs(stamp - time.time()) < 20
    assert headers["webhook-signature"] == signature(secret=secret, message_id=message_id, timestamp=stamp, body=body)
    assert message_id == MerchantCall.objects.get().number
    assert "." not in message_id


def test_while_a_secret_is_rolled_both_sign(told, merchants, settings):
    (call,) = pending(told)
    old = Merchant.objects.get(pk=told.merchant_id).webhook_secret
    new = catalog.roll_webhook_secret(merchant_id=told.merchant_id)
    for overlap_s, secrets in ((settings.WEBHOOK_SECRET_OVERLAP_S, [new, old]), (0, [new])):
        if not overlap_s:
            Merchant.objects.update(webhook_secret_before_until=Now())
            merchant_calls.send_again(call_id=call.pk, by="test")
        merchant_calls.call_due()
        _, message_id, headers, body = merchants.heard[-1]
        stamp = int(headers["webhook-timestamp"])
        assert headers["webhook-signature"].split(" ") == [
            signature(secret=one, message_id=message_id, timestamp=stamp, body=body) for one in secrets
        ]


def test_a_merchant_is_told_of_what_becomes_of_an_order(told, merchants):
    number = told.bought()["number"]
    told.post(f"/orders/{number}/ship", {"carrier": "Post", "tracking": "42"})
    told.post(f"/orders/{number}/complete")
    settle()
    assert merchants.types("/a") == {
        "orders.order_paid.v1": 1,
        "orders.order_shipped.v1": 1,
        "orders.order_completed.v1": 1,
    }
    shipped = next(json.loads(body) for *_, body in merchants.heard if b"shipped" in body)
    assert (shipped["data"]["carrier"], shipped["data"]["tracking"]) == ("Post", "42")


def test_a_merchant_is_told_of_a_cancelled_sale_and_its_refund(told, merchants):
    told.post(f"/orders/{told.bought()['number']}/cancel")
    settle()
    assert merchants.types("/a") == {
        "orders.order_paid.v1": 1,
        "orders.order_cancelled.v1": 1,
        "orders.sale_cancelled.v1": 1,
        "payments.refund_requested.v1": 1,
        "payments.refund_succeeded.v1": 1,
    }
    assert len(set(merchants.ids("/a"))) == 5


def test_a_merchant_is_told_of_an_order_that_nobody_paid(told, merchants):
    told.checkout(headers={"Prefer": "respond-async"})
    Order.objects.update(expires_at=Now())
    rearm()
    expire_due()
    settle()
    assert merchants.types("/a") == {"orders.order_cancelled.v1": 1}
    assert json.loads(merchants.heard[0][3])["data"]["why"] == "not paid in time"


def test_a_merchant_is_told_of_a_dispute_and_its_end(told, merchants, sandbox):
    intent = told.bought()["payments"][0]["provider_reference"]
    disputed = sandbox.control("POST", "disputes", {"payment_intent": intent})
    settle()
    sandbox.control("POST", "disputes/outcome", {"dispute": disputed["id"], "status": "won"})
    settle()
    assert merchants.types("/a").keys() >= {"payments.dispute_opened.v1", "payments.dispute_closed.v1"}


def test_who_named_no_address_costs_no_row(shop, merchants):
    shop.bought()
    assert merchants.heard == []
    assert not MerchantCall.objects.exists()


def test_who_has_no_address_any_more_is_not_called(told, merchants):
    pending(told)
    wants_to_be_told(told, "")
    assert merchant_calls.call_due() == 0
    assert merchants.heard == []
    call = MerchantCall.objects.get()
    assert (call.state, "no webhook address" in call.decided_reason) == ("dropped", True)


def test_the_request_that_caused_it_is_known(told, merchants):
    told.storefront.post(
        "/api/v1/checkout",
        {
            "customer": {"id": "c"},
            "items": [{"product": "book", "quantity": 1}],
            "payment": {"method": "card", "payment_method": "pm_card_visa", "confirm": True},
        },
        format="json",
        headers={"Idempotency-Key": "k", "X-Request-Id": "req-of-the-shop"},
    )
    settle(webhooks=False)
    assert MerchantCall.objects.get().request_id == "req-of-the-shop"


# --- For a day --------------------------------------------------------------------------------------


def test_the_tries_are_spread_over_a_day_and_then_it_is_given_up(told, merchants, settings):
    merchants.broken = {"/a"}
    pending(told)
    pauses_s = []
    for _ in range(len(settings.MERCHANT_CALL_PAUSES_S)):
        assert merchant_calls.call_due() == 1
        call = MerchantCall.objects.annotate(pause=F("available_at") - F("last_tried_at")).get()
        assert call.state == "pending"
        pauses_s.append(call.pause.total_seconds())
        assert merchant_calls.call_due() == 0  # not before its time
        make_due()
    for pause_s, wanted_s in zip(pauses_s, settings.MERCHANT_CALL_PAUSES_S, strict=True):
        assert 0.79 * wanted_s <= pause_s <= 1.21 * wanted_s
    assert 24 * 3600 <= sum(settings.MERCHANT_CALL_PAUSES_S) <= 26 * 3600
    assert merchant_calls.call_due() == 1
    ended = MerchantCall.objects.get()
    assert (ended.state, ended.attempts, "answered 500" in ended.last_answer) == ("given_up", 11, True)
    make_due()
    assert merchant_calls.call_due() == 0
    assert len(merchants.ids("/a")) == 11
    assert len(set(merchants.ids("/a"))) == 1  # one id for each try


def test_what_is_answered_at_last_is_delivered(told, merchants):
    merchants.broken = {"/a"}
    pending(told)
    merchant_calls.call_due()
    merchants.broken = set()
    make_due()
    merchant_calls.call_due()
    call = MerchantCall.objects.get()
    assert (call.state, call.attempts, call.delivered_at is not None) == ("delivered", 2, True)
    assert call.last_answer.startswith("answered 204")


def test_a_process_that_dies_of_a_call_has_only_made_a_pause(told, merchants, monkeypatch, settings):
    """What a killed worker leaves behind: a call that is counted, and due again after the first pause."""

    def dies(*_: Any) -> None:
        raise SystemExit

    pending(told)
    with monkeypatch.context() as broken:
        broken.setattr(merchant_calls, "_record", dies)
        with pytest.raises(SystemExit):
            merchant_calls.call_due()
    call = MerchantCall.objects.annotate(pause=F("available_at") - F("last_tried_at")).get()
    assert (call.state, call.attempts) == ("pending", 1)
    assert call.pause <= timedelta(seconds=1.21 * settings.MERCHANT_CALL_PAUSES_S[0])
    make_due()
    merchant_calls.call_due()
    assert MerchantCall.objects.get().state == "delivered"
    assert len(set(merchants.ids("/a"))) == 1


def test_an_address_inside_is_refused_and_told_to_operators(told, merchants, settings):
    settings.WEBHOOK_ALLOWED_NETWORKS = []
    pending(told)
    merchant_calls.call_due()
    assert merchants.heard == []
    assert "not a public address" in MerchantCall.objects.get().last_answer


@pytest.mark.parametrize(
    "url",
    ["https://10.0.0.1/x", "https://[::1]/", "https://169.254.169.254/latest", "http://shop.example/", "ftp://x/"],
)
def test_an_address_that_no_call_can_go_to_is_refused_when_it_is_entered(shop, url):
    with pytest.raises(InvalidInput) as refused:
        catalog.create_merchant(name="Inside", currency="usd", webhook_url=url)
    assert refused.value.param == "webhook_url"
    assert not Merchant.objects.filter(name="Inside").exists()


def test_the_secret_is_in_no_log_and_no_answer(told, merchants, caplog):
    merchants.broken = {"/a"}
    secret = Merchant.objects.get(pk=told.merchant_id).webhook_secret
    pending(told)
    merchant_calls.call_due()
    last_answer = MerchantCall.objects.get().last_answer
    assert "answered 500" in last_answer
    assert "answered 500" in caplog.text
    assert secret not in last_answer + caplog.text


# --- One slow merchant ------------------------------------------------------------------------------


@pytest.fixture
def calling() -> Iterator[Callable[[], threading.Thread]]:
    """Begins to make the calls that are due, in a worker of its own."""
    workers: list[threading.Thread] = []

    def call() -> None:
        try:
            merchant_calls.call_due()
        finally:
            connections.close_all()

    def begin() -> threading.Thread:
        workers.append(threading.Thread(target=call))
        workers[-1].start()
        return workers[-1]

    yield begin
    for worker in workers:
        worker.join(20)


def until(holds: Callable[[], bool], *, seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def two_shops(shop: Shop, merchants: Merchants) -> Shop:
    """The shop is silent, another one is awake."""
    other = open_shop()
    wants_to_be_told(shop, f"{merchants.url}/silent")
    wants_to_be_told(other, f"{merchants.url}/awake")
    merchants.silent = {"/silent"}
    return other


def test_a_silent_merchant_delays_no_other(shop, merchants, calling):
    other = two_shops(shop, merchants)
    pending(shop, 30, late_s=60)  # the silent one has waited longer, and has more to be told
    pending(other, 5)
    worker = calling()
    assert until(lambda: len(merchants.ids("/awake")) == 5)
    assert merchants.rings.is_set()
    pending(other, 5)  # and what comes while the silent one is waited for
    assert until(lambda: len(merchants.ids("/awake")) == 10)
    assert worker.is_alive()
    assert len(merchants.ids("/silent")) == 4  # sockets are left for others
    merchants.let_go.set()


def test_control_where_one_call_is_made_after_the_other_the_silent_one_delays_all(shop, merchants, calling, settings):
    settings.MERCHANT_CALLS_AT_ONCE = 1
    other = two_shops(shop, merchants)
    pending(shop, 30, late_s=60)
    pending(other, 5)
    calling()
    assert merchants.rings.wait(5)
    assert not until(lambda: bool(merchants.ids("/awake")), seconds=0.5)
    settings.MERCHANT_CALLS_RUN_S = 0
    merchants.let_go.set()


def test_a_merchant_that_was_slow_rests_and_the_others_do_not(shop, merchants, monkeypatch):
    other = two_shops(shop, merchants)
    merchants.silent = set()
    monkeypatch.setattr(merchant_calls, "_SLOW_S", 0.0)
    pending(shop)
    merchant_calls.call_due()
    assert merchants.ids("/silent")
    monkeypatch.setattr(merchant_calls, "_REST", 1_000_000)
    pending(shop)
    merchant_calls.forget_rests()
    merchant_calls.call_due()  # slow, by the measure above: from here on it rests
    monkeypatch.setattr(merchant_calls, "_SLOW_S", 60.0)
    heard = len(merchants.ids("/silent"))
    pending(shop, 3)
    pending(other, 3)
    assert merchant_calls.call_due() == 3
    assert (len(merchants.ids("/silent")), len(merchants.ids("/awake"))) == (heard, 3)
    merchant_calls.forget_rests()
    assert merchant_calls.call_due() == 3


def test_two_workers_at_once_make_each_call_once(shop, merchants, calling):
    other = two_shops(shop, merchants)
    pending(shop)
    worker = calling()
    assert merchants.rings.wait(5)
    pending(other, 3)
    assert merchant_calls.call_due() == 0  # somebody is at it
    assert until(lambda: len(merchants.ids("/awake")) == 3)
    merchants.let_go.set()
    worker.join(10)
    assert len(merchants.ids("/silent")) == 1


def test_each_merchants_first_calls_are_found_through_the_index(shop):
    other = open_shop()
    pending(shop, 3000)
    pending(other, 10)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE orders_merchantcall")
        cursor.execute(
            "EXPLAIN " + merchant_calls._CLAIM,
            {"busy": [shop.merchant_id], "calls": [2], "each": 4, "limit": 16, "pauses_s": [5.0]},
        )
        plan = " ".join(row[0] for row in cursor.fetchall())
    assert "merchant_call_due" in plan
    assert "Seq Scan on orders_merchantcall" not in plan


# --- Again ------------------------------------------------------------------------------------------


def test_one_call_is_sent_again_under_its_id(told, merchants):
    (call,) = pending(told)
    merchant_calls.call_due()
    merchant_calls.send_again(call_id=call.pk, by="olga")
    merchant_calls.call_due()
    assert merchants.ids("/a") == [call.number] * 2
    call.refresh_from_db()
    assert (call.state, call.attempts, call.decided_by) == ("delivered", 1, "olga")


def test_what_is_being_sent_is_not_sent_again(told):
    (call,) = pending(told)
    with pytest.raises(IllegalTransition):
        merchant_calls.send_again(call_id=call.pk, by="olga")


def test_everything_from_one_on_is_sent_again_and_nobody_elses(told, merchants):
    other = open_shop()
    wants_to_be_told(other, f"{merchants.url}/b")
    calls = pending(told, 5)
    pending(other, 2)
    merchant_calls.call_due()
    MerchantCall.objects.filter(pk=calls[3].pk).update(state="given_up")
    merchant_calls.send_again(call_id=calls[4].pk, by="olga")
    merchant_calls.drop(call_id=calls[4].pk, by="olga", reason="a test")
    assert merchant_calls.send_again_since(call_id=calls[2].pk, by="olga") == 2  # what a person dropped stays so
    merchant_calls.call_due()
    assert Counter(merchants.ids("/a")) == {
        one.number: 2 if number in (2, 3) else 1 for number, one in enumerate(calls)
    }
    assert len(merchants.ids("/b")) == 2


def test_a_call_is_dropped_with_a_reason_alone(told, merchants):
    (call,) = pending(told)
    with pytest.raises(InvalidInput):
        merchant_calls.drop(call_id=call.pk, by="olga", reason=" ")
    merchant_calls.drop(call_id=call.pk, by="olga", reason="the shop is closed")
    assert merchant_calls.call_due() == 0
    with pytest.raises(IllegalTransition):
        merchant_calls.drop(call_id=call.pk, by="olga", reason="again")
    call.refresh_from_db()
    assert (call.state, call.decided_by, call.decided_reason) == ("dropped", "olga", "the shop is closed")


def test_calls_of_long_ago_are_deleted_but_for_those_that_are_to_be_made(told, settings):
    calls = pending(told, 3)
    MerchantCall.objects.filter(pk__in=[one.pk for one in calls[:2]]).update(state="delivered", delivered_at=Now())
    MerchantCall.objects.exclude(pk=calls[0].pk).update(created_at="2020-01-01T00:00Z")
    assert merchant_calls.clean_up() == 1
    assert {one.pk for one in MerchantCall.objects.all()} == {calls[0].pk, calls[2].pk}
