"""A request's id: echoed, in each problem document, and on every line that the request or the work it caused has logged."""

import json
import logging
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from celery import current_app

from config.celery import _bind_task
from durability.models import Message, SagaRun
from foundation.logs import JsonFormatter, begin, bound, bound_id
from reconciliation import services as reconciliation
from tests.credit import CARD, DECLINED
from tests.shop import Shop, settle

Line = dict[str, Any]


@pytest.fixture
def lines() -> Iterator[list[Line]]:
    """Every line that is logged by ours, as the formatter writes it at that moment."""
    found: list[Line] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(json.loads(JsonFormatter().format(record)))

    handler = Keeping()
    root = logging.getLogger()
    root.addHandler(handler)
    begin()
    yield found
    root.removeHandler(handler)
    begin()


@pytest.mark.parametrize("given", ["r", "a.B_c:d-0", "x" * 128])
def test_a_well_formed_id_is_echoed(shop, given):
    answer = shop.storefront.get("/api/v1/products/none", headers={"X-Request-Id": given})
    assert answer.headers["X-Request-Id"] == answer.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", " ", "x" * 129, "a b", "a\nb: c", "é", "💥", "<script>"])
def test_any_other_is_replaced_by_one_of_ours(shop, given):
    answer = shop.storefront.get("/api/v1/products/none", headers={"X-Request-Id": given})
    assert answer.headers["X-Request-Id"] == answer.json()["request_id"]
    assert answer.headers["X-Request-Id"].startswith("req_")


@pytest.mark.parametrize("path", ["/livez", "/api/v1/nowhere", "/api/v1/products/%00", "/admin/login/"])
def test_every_answer_has_one(shop, path):
    assert shop.storefront.get(path, headers={"X-Request-Id": "r-1"}).headers["X-Request-Id"] == "r-1"


def test_what_a_checkout_causes_is_logged_under_its_id(shop: Shop, lines):
    shop.checkout(payment=CARD, headers={"X-Request-Id": "r-1"})
    settle(webhooks=False)
    assert set(Message.objects.values_list("request_id", flat=True)) == {"r-1"}
    assert set(SagaRun.objects.values_list("request_id", flat=True)) == {"r-1"}
    assert {line.get("request_id") for line in lines} == {"r-1"}


def test_what_fails_in_a_worker_is_logged_under_the_id_of_the_request_that_asked(shop, lines, settings, monkeypatch):
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the mail server is away")

    shop.checkout(payment=CARD, headers={"X-Request-Id": "r-1"})
    lines.clear()
    monkeypatch.setattr("django.core.mail.message.EmailMessage.send", broken)
    settings.DELIVERY_MAX_ATTEMPTS = 1
    settle(webhooks=False)
    told = [line for line in lines if "mail server" in line.get("exception", "")]
    assert told
    assert {line["request_id"] for line in told} == {"r-1"}


def test_a_retry_is_logged_under_its_own_id(shop, lines, settings):
    """The same checkout, and the same saga; but whoever looks for the second request finds what it did."""
    base, settings.STRIPE_API_BASE = settings.STRIPE_API_BASE, "http://127.0.0.1:9"
    shop.checkout(payment=DECLINED, key="one", headers={"X-Request-Id": "first"})
    lines.clear()
    SagaRun.objects.update(available_at="2026-01-01T00:00Z")
    shop.checkout(payment=DECLINED, key="one", headers={"X-Request-Id": "second"})
    assert [line for line in lines if "saga" in line]
    assert {line["request_id"] for line in lines} == {"second"}
    settings.STRIPE_API_BASE = base


def test_a_task_that_a_request_asks_for_carries_its_id(shop, valkey):
    with bound(request_id="r-1"):
        reconciliation.request_run(day=date(2026, 11, 1), by="manager")
    sent = json.loads(valkey.lpop("long"))
    current_app.loader.import_default_modules()
    task = current_app.tasks["reconciliation.reconcile_day"]
    task.push_request(**sent["headers"])
    try:
        _bind_task(task_id="t", task=task)
        assert bound_id("request_id") == "r-1"
    finally:
        task.pop_request()
        begin()


def test_a_doorbell_belongs_to_nobody(shop, valkey):
    shop.checkout(headers={"X-Request-Id": "r-1"})
    rung = [json.loads(one) for queue in ("own", "outside") for one in valkey.lrange(queue, 0, -1)]
    assert rung
    assert not [one for one in rung if one["headers"].get("request_id")]
