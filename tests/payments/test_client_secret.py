"""The client_secret enters no table, no Redis key, no log and no stored answer: searched for everywhere after a whole flow."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from django.db import connection
from redis import Redis

from payments import gateway
from payments.models import InboxEvent, Payment
from tests.payments.test_lifecycle import SECURE, VISA, attempt, bank, browser, by_us
from tests.sandbox_process import SandboxProcess, start_sandbox
from tests.shop import Shop, open_shop, settle


@pytest.fixture
def delivering(transactional_db, valkey, live_server, settings, tmp_path) -> Iterator[SandboxProcess]:
    """A provider that delivers its webhooks to us over HTTP."""
    handle = start_sandbox(tmp_path, webhook_url=f"{live_server.url}/api/v1/webhooks/stripe")
    settings.STRIPE_API_BASE = handle.url
    yield handle
    handle.stop()


@pytest.fixture
def busy_shop(delivering) -> Shop:
    shop = open_shop()
    shop.stock("book", 10)
    return shop


def in_the_database(secrets: Iterable[str]) -> list[str]:
    """Tables whose rows hold one of them, in whatever column."""
    found = []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
        )
        tables = [table for (table,) in cursor.fetchall()]
        assert len(tables) > 30
        for table in tables:
            for secret in secrets:
                cursor.execute(
                    f'SELECT EXISTS (SELECT FROM "{table}" row WHERE position(%s IN row::text) > 0'
                    f" OR position(encode(convert_to(%s, 'UTF8'), 'hex') IN row::text) > 0)",
                    [secret, secret],
                )
                row = cursor.fetchone()
                if row and row[0]:
                    found.append(table)
    return found


def in_redis(client: Redis, secrets: Iterable[str]) -> list[str]:
    """Keys that hold one of them, by name or in their value."""
    readers: dict[str, Callable[[Any], Any]] = {
        "string": client.get,
        "list": lambda key: client.lrange(key, 0, -1),
        "zset": lambda key: client.zrange(key, 0, -1),
        "set": client.smembers,
        "hash": client.hgetall,
        "stream": client.xrange,
        "none": lambda key: None,  # a wake-up that was read or ran out meanwhile
    }
    found = []
    for key in client.keys("*"):
        kind = client.type(key)
        kind = kind.decode() if isinstance(kind, bytes) else str(kind)
        value = f"{key!r} {readers[kind](key)!r}"
        found += [str(key) for secret in secrets if secret in value]
    return found


def whole_flow(shop: Shop, sandbox: SandboxProcess) -> list[str]:
    """Every way to pay, with replays, a decline, 3-D Secure, another attempt, refunds and webhooks. The secrets that were seen."""
    first = shop.checkout(key="one").json()
    replay = shop.checkout(key="one")
    assert replay.headers["Idempotent-Replayed"] == "true"
    assert replay.json()["payment"]["client_secret"] == first["payment"]["client_secret"]
    shown = shop.storefront.get(f"/api/v1/payments/{first['payment']['number']}").json()
    assert shown["client_secret"] == first["payment"]["client_secret"]
    browser(sandbox, first["payment"], "pm_card_chargeDeclined")
    settle()
    second = attempt(shop, first["order"]["number"]).json()
    assert second["client_secret"] != first["payment"]["client_secret"]
    browser(sandbox, second, SECURE)
    settle()
    bank(sandbox, second, "succeed")
    third = shop.checkout(payment=by_us(SECURE)).json()["payment"]
    bank(sandbox, third, "succeed")
    shop.checkout(payment=by_us("pm_card_chargeDeclined"))
    paid = shop.checkout(payment=by_us(VISA)).json()
    asynchronous = shop.checkout(headers={"Prefer": "respond-async"}).json()["payment"]["number"]
    settle()
    waiting = shop.storefront.get(f"/api/v1/payments/{asynchronous}").json()
    shop.post(f"/payments/{paid['payment']['number']}/refunds", {"amount": 500, "reason": "a torn page"})
    settle()
    while sandbox.control("GET", "webhooks")["waiting"]:
        settle(webhooks=False)
    settle()
    references = Payment.objects.filter(provider_reference__isnull=False).values_list("provider_reference", flat=True)
    secrets = {gateway.retrieve_intent(reference or "").client_secret for reference in references}
    assert {first["payment"]["client_secret"], second["client_secret"], waiting["client_secret"]} <= secrets
    return [part for secret in secrets for part in (secret, secret.partition("_secret_")[2]) if part]


def test_the_client_secret_stays_nowhere(busy_shop, delivering, valkey, caplog, capfd):
    caplog.set_level(logging.INFO)
    secrets = whole_flow(busy_shop, delivering)
    assert len(secrets) >= 12
    assert InboxEvent.objects.filter(type="payment_intent.succeeded").exists()
    assert in_the_database(secrets) == []
    assert in_redis(valkey, secrets) == []
    printed = capfd.readouterr()
    said = caplog.text + printed.out + printed.err
    assert "/api/v1/checkout" in said
    assert not [secret for secret in secrets if secret in said]


def test_of_an_answer_that_is_cut_short_nothing_is_kept(busy_shop, delivering, valkey, caplog, capfd):
    """What an error of reading quotes would be the intent itself."""
    caplog.set_level(logging.INFO)
    delivering.control("POST", "faults", {"match": "POST /v1/payment_intents", "kind": "cut_short", "times": 2})
    body = busy_shop.checkout().json()
    settle()
    secret = busy_shop.storefront.get(f"/api/v1/payments/{body['payment']['number']}").json()["client_secret"]
    assert in_the_database([secret]) == []
    assert in_redis(valkey, [secret]) == []
    printed = capfd.readouterr()
    assert secret not in caplog.text + printed.out + printed.err


def test_control_the_search_finds_a_secret_that_is_kept(busy_shop, valkey):
    secret = "pi_1_secret_abcdefghijklmnop"
    body: dict[str, Any] = busy_shop.checkout().json()
    Payment.objects.filter(pk=Payment.id_of(body["payment"]["number"])).update(failure_message=f"was {secret}")
    valkey.set("everycent:cached", secret)
    valkey.xadd("everycent:told", {"payload": secret})
    assert in_the_database([secret]) == ["payments_payment"]
    assert len(in_redis(valkey, [secret])) == 2
