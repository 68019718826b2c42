"""The door for webhooks: signed, stored before acknowledged, once."""

import json
import time

import pytest
import stripe

from durability.models import Message
from payments.models import InboxEvent

pytestmark = pytest.mark.django_db(transaction=True)
SECRET, OLD_SECRET = "whsec_sandbox", "whsec_old"


@pytest.fixture(autouse=True)
def two_secrets(settings, valkey):
    settings.STRIPE_WEBHOOK_SECRETS = [SECRET, OLD_SECRET]


def event(event_id: str = "evt_1") -> bytes:
    intent = {"id": "pi_1", "object": "payment_intent", "client_secret": "pi_1_secret_x"}
    return json.dumps(
        {
            "id": event_id,
            "object": "event",
            "type": "payment_intent.succeeded",
            "created": 1_790_000_000,
            "livemode": False,
            "data": {"object": intent},
        }
    ).encode()


def send(client, payload: bytes, *, secret: str = SECRET, at: int | None = None, header: str | None = None):
    stamp = int(time.time()) if at is None else at
    signature = stripe.WebhookSignature._compute_signature(f"{stamp}.{payload.decode()}", secret)
    return client.post(
        "/api/v1/webhooks/stripe",
        payload,
        content_type="application/json",
        headers={"Stripe-Signature": f"t={stamp},v1={signature}" if header is None else header},
    )


@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET])
def test_a_signed_event_is_stored_and_told(client, secret):
    assert send(client, event(), secret=secret).status_code == 200
    assert InboxEvent.objects.get().intent_id == "pi_1"
    assert Message.objects.get().key == "pi_1"


def test_a_second_delivery_is_acknowledged_and_does_nothing(client):
    send(client, event())
    answer = send(client, event())
    assert (answer.status_code, answer.json()["new"]) == (200, False)
    assert Message.objects.count() == 1


@pytest.mark.parametrize("skew_s", [-301, 301])
def test_a_stamp_outside_the_tolerance_is_refused_in_both_directions(client, skew_s):
    answer = send(client, event(), at=int(time.time()) + skew_s + (1 if skew_s > 0 else 0))
    assert (answer.status_code, answer.json()["code"]) == (400, "signature_invalid")
    assert not InboxEvent.objects.exists()


@pytest.mark.parametrize("header", ["", "t=1", "nonsense", "t=x,v1=y"])
def test_a_malformed_signature_is_refused(client, header):
    assert send(client, event(), header=header).status_code == 400


def test_another_secret_is_refused(client):
    assert send(client, event(), secret="whsec_other").status_code == 400


def test_no_part_of_the_body_with_a_secret_is_stored(client):
    send(client, event())
    stored = json.dumps([InboxEvent.objects.values().get(), Message.objects.values().get()], default=str)
    assert "secret" not in stored


@pytest.mark.parametrize("related", [{"related_object": {"id": "acct_1", "type": "v2.core.account"}}, {}])
def test_an_event_of_the_providers_second_kind_is_stored_like_any_that_we_do_not_know(client, related):
    """https://docs.stripe.com/api/v2/core/events/object: no `data.object`, and the moment is a text."""
    thin = {
        "id": "evt_test_65S",
        "object": "v2.core.event",
        "type": "v2.core.account.updated",
        "created": "2026-09-22T06:20:52.246Z",
        "livemode": False,
        **related,
    }
    assert send(client, json.dumps(thin).encode()).status_code == 200
    stored = InboxEvent.objects.get()
    assert (stored.type, stored.provider_created_at.isoformat()) == (thin["type"], "2026-09-22T06:20:52.246000+00:00")
