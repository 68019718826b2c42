import time

import pytest
import stripe

from tests.sandbox.conftest import eventually

SALE = ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded"]


def test_events_arrive_signed_once_and_roughly_in_order(start, inbox):
    shop = start(webhook_url=inbox.url)
    intent = shop.v1.payment_intents.create({"amount": 100, "currency": "usd"}, {"idempotency_key": "k1"})
    eventually(lambda: len(inbox.received) == 1)
    shop.v1.payment_intents.cancel(intent.id)
    eventually(lambda: len(inbox.received) == 2)

    created, cancelled = inbox.events()
    assert (created.type, cancelled.type) == ("payment_intent.created", "payment_intent.canceled")
    assert created.data.object.id == intent.id
    assert created.data.object.status == "requires_payment_method"
    assert (created.request.idempotency_key, created.pending_webhooks) == ("k1", 1)
    eventually(lambda: shop.v1.events.retrieve(created.id).pending_webhooks == 0)
    body, header = inbox.received[0]
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(body, header, "whsec_other")
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(body + b" ", header, "whsec_sandbox")


def test_signatures_use_real_time_while_the_clock_runs_ahead(start, inbox):
    shop = start(webhook_url=inbox.url)
    assert shop.sandbox.control("POST", "clock", {"advance_s": 90 * 86400})["advanced_s"] == 90 * 86400
    shop.open()
    eventually(lambda: inbox.received)
    event = inbox.events()[0]  # within the SDK's tolerance of 300 s
    assert event.created > time.time() + 89 * 86400
    assert event.data.object.created > time.time() + 89 * 86400


def test_a_failing_endpoint_is_tried_again(start, inbox):
    shop = start(webhook_url=inbox.url)
    inbox.status = 500
    shop.open()
    eventually(lambda: len(inbox.received) == 2)  # at once, and after 1 s
    assert shop.v1.events.list().data[0].pending_webhooks == 1
    inbox.status = 200
    eventually(lambda: shop.v1.events.list().data[0].pending_webhooks == 0)
    assert len(inbox.received) == 3
    assert len({event.id for event in inbox.events()}) == 1


def test_what_was_not_delivered_is_delivered_after_a_kill(start, inbox):
    shop = start(webhook_url=inbox.url)
    shop.sandbox.control("POST", "webhooks", {"mode": "hold"})
    shop.pay()
    shop.sandbox.kill()
    shop.sandbox.restart()
    assert shop.sandbox.control("GET", "webhooks") == {"mode": "hold", "copies": 2, "waiting": 3}
    assert inbox.received == []
    shop.sandbox.control("POST", "webhooks", {"mode": "normal"})
    eventually(lambda: sorted(inbox.types()) == sorted(SALE))


def test_held_webhooks_wait_and_then_come_in_order_of_creation(start, inbox):
    shop = start(webhook_url=inbox.url)
    shop.sandbox.control("POST", "webhooks", {"mode": "hold"})
    for _ in range(3):
        shop.open()
    time.sleep(0.3)
    assert inbox.received == []
    shop.sandbox.control("POST", "webhooks", {"mode": "normal"})
    eventually(lambda: len(inbox.received) == 3)


def test_dropped_webhooks_never_come_but_the_events_are_listed(start, inbox):
    shop = start(webhook_url=inbox.url)
    shop.sandbox.control("POST", "webhooks", {"mode": "drop"})
    shop.pay()
    shop.sandbox.control("POST", "webhooks", {"mode": "normal"})
    lost = shop.event_types()
    shop.open()
    eventually(lambda: inbox.received)
    time.sleep(0.2)
    assert lost == SALE
    assert inbox.types() == ["payment_intent.created"]


def test_duplicated_webhooks_come_as_often_as_told(start, inbox):
    shop = start(webhook_url=inbox.url)
    shop.sandbox.control("POST", "webhooks", {"mode": "duplicate", "copies": 3})
    shop.open()
    eventually(lambda: len(inbox.received) == 3)
    assert len({event.id for event in inbox.events()}) == 1


def test_shuffled_webhooks_all_come_out_of_order(start, inbox):
    shop = start(webhook_url=inbox.url)
    shop.sandbox.control("POST", "webhooks", {"mode": "hold"})
    sent = [shop.open().id for _ in range(12)]
    shop.sandbox.control("POST", "webhooks", {"mode": "shuffle"})
    eventually(lambda: len(inbox.received) == 12)
    received = [event.data.object.id for event in inbox.events()]
    assert sorted(received) == sorted(sent)
    assert received != sent


def test_a_control_call_is_not_the_work_of_an_api_request(start, inbox):
    shop = start(webhook_url=inbox.url)
    intent = shop.pay(card="pm_card_authenticationRequired")
    shop.sandbox.control("POST", "authenticate", {"payment_intent": intent.id, "outcome": "succeed"})
    eventually(lambda: "payment_intent.succeeded" in inbox.types())
    succeeded = next(event for event in inbox.events() if event.type == "payment_intent.succeeded")
    assert (succeeded.request.id, succeeded.request.idempotency_key) == (None, None)
