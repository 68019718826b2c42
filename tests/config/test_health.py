import pytest

from durability import services as durability
from durability.models import Heartbeat
from foundation import redis

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def healthy(sandbox, valkey):
    durability.seen("beat", "worker.own", "worker.outside", "worker.long")


def test_livez_needs_nothing(client):
    assert client.get("/livez").status_code == 200


def test_readyz_names_every_part_with_its_duration(client, healthy):
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "healthy")
    assert set(answer.json()["checks"]) == {"database", "redis", "stripe", "beat", "workers", "outbox"}
    assert all(check["duration_ms"] >= 0 and check["error"] is None for check in answer.json()["checks"].values())


def test_without_stripe_it_is_degraded_and_still_serves(client, healthy, settings):
    settings.STRIPE_API_BASE = "http://127.0.0.1:9"
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["checks"]["stripe"]["error"]


def test_without_redis_it_is_degraded(client, healthy, settings):
    settings.REDIS_URL = "redis://127.0.0.1:9/0"
    redis.client.cache_clear()
    try:
        assert client.get("/readyz").json()["checks"]["redis"]["status"] == "failed"
    finally:
        redis.client.cache_clear()


def test_a_beat_that_was_never_seen_is_told(client, sandbox, valkey):
    assert client.get("/readyz").json()["checks"]["beat"]["error"] == "beat was never seen"


def test_metrics_are_for_allowed_networks_only(client, settings):
    assert b"everycent_outbox_oldest_seconds" in client.get("/metrics").content
    assert client.get("/metrics", REMOTE_ADDR="192.0.2.1").status_code == 403


def test_an_unknown_api_address_is_a_problem_document(client):
    answer = client.get("/api/v1/nothing")
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/problem+json")
    assert answer.json()["code"] == "not_found"
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


def test_a_well_formed_request_id_is_echoed_and_another_replaced(client):
    assert client.get("/livez", headers={"X-Request-Id": "abc-1"}).headers["X-Request-Id"] == "abc-1"
    assert client.get("/livez", headers={"X-Request-Id": "a b\n"}).headers["X-Request-Id"].startswith("req_")


def test_the_api_describes_itself_without_leaving_the_host(client):
    schema = client.get("/api/schema")
    assert schema.status_code == 200
    assert b"/api/v1/checkout" in schema.content
    page = client.get("/api/docs").content.decode()
    assert "https://" not in page.replace("https://everycent.example", "")


def test_a_queue_that_nobody_serves_is_told(client, healthy):
    Heartbeat.objects.filter(name="worker.outside").update(seen_at="2020-01-01T00:00Z")
    assert client.get("/readyz").json()["checks"]["workers"]["error"] == "nobody serves the queue outside"
