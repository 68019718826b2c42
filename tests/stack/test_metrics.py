"""`/metrics` adds up what the processes counted, whichever of them is asked."""

import pytest
import requests

from tests.exposition import Exposition
from tests.stack.shop import Shop, eventually

pytestmark = pytest.mark.stack


def read(shop: Shop) -> Exposition:
    answer = requests.get(f"{shop.info['url']}/metrics", timeout=10)
    assert answer.status_code == 200
    return Exposition(answer.text)


def test_what_web_and_workers_counted_adds_up(stack):
    shop = Shop(stack)
    product, before = shop.sell(5), read(shop)
    body = {"customer": {"id": "cust-1"}, "items": [{"product": product, "quantity": 1}]}
    for key in (product, product, f"{product}-2"):
        answer = shop.call("POST", "/checkout", body, key=key, scope="storefront")
        assert answer.status_code == 201, answer.text
        payment = answer.json()["payment"]
    shop.confirm(payment)  # its webhook is handled, and the capture counted, by a worker

    def grown(name: str, **labels: str) -> float:
        return read(shop).value(name, **labels) - before.value(name, **labels)

    assert eventually(lambda: grown("everycent_captured_minor_total", currency="usd") == 1500)
    for _ in range(8):  # two web workers answer in turn
        assert grown("everycent_payment_requests_total", outcome="success") == 1
        assert grown("everycent_idempotency_total", outcome="replayed") == 1
        assert grown("everycent_payment_request_duration_seconds_count") == 3
        created = {"call": "payment_intents.create", "outcome": "ok"}
        assert grown("everycent_stripe_request_duration_seconds_count", **created) == 2
        read_again = {"call": "payment_intents.retrieve", "outcome": "ok"}
        assert grown("everycent_stripe_request_duration_seconds_count", **read_again) >= 1
        assert grown("django_db_query_duration_seconds_count", alias="default", vendor="postgresql") > 0
    seen = read(shop)
    assert 0 <= seen.value("everycent_beat_age_seconds") < 60
    assert seen.value("everycent_database_up") == 1
