"""Calls a second of one key: counted in Redis, refused with a time to come back, let through where Redis is away."""

import threading
import time

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from foundation import throttle
from tests.shop import Shop, open_shop

pytestmark = pytest.mark.django_db(transaction=True)


def take(*, per_second: int) -> throttle.Taken:
    taken = throttle.take("k", per_second=per_second)
    assert taken is not None, "Redis did not answer"
    return taken


@pytest.fixture
def shop(valkey, monkeypatch) -> Shop:
    monkeypatch.setattr(throttle, "_resume_at", 0.0)
    return open_shop()


def test_each_answer_says_what_is_left(shop, settings):
    settings.API_CALLS_PER_SECOND = 500
    answer = shop.storefront.get("/api/v1/products")
    assert answer.headers["RateLimit-Policy"] == '"key";q=500;w=1'
    assert answer.headers["RateLimit"] == '"key";r=499;t=1'


def test_a_key_that_calls_too_often_is_told_when_to_come_back_and_nothing_happens(shop, settings):
    settings.API_CALLS_PER_SECOND = 2
    answers = [shop.storefront.get("/api/v1/products") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["code"] == "rate_limited"
    assert answers[2].headers["Retry-After"] == "1"
    assert answers[2].headers["RateLimit"] == '"key";r=0;t=1'
    assert answers[2].headers["Content-Type"] == "application/problem+json"
    # Another key has calls of its own.
    assert shop.operations.get("/api/v1/products").status_code == 200


def test_the_bucket_fills_again_with_time(valkey):
    first = take(per_second=5)
    assert (first.passes, first.left) == (True, 4)
    refused = next(taken for _ in range(1000) if not (taken := take(per_second=5)).passes)
    assert (refused.left, 0 < refused.wait_s <= 1 / 5) == (0, True)
    time.sleep(refused.wait_s)
    assert take(per_second=5).passes


def test_of_many_calls_at_once_no_more_than_the_burst_pass(valkey):
    passed: list[bool] = []

    def call() -> None:
        passed.extend(take(per_second=20).passes for _ in range(10))

    began = time.monotonic()
    threads = [threading.Thread(target=call) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    filled = (time.monotonic() - began) * 20  # while they called
    assert min(20, len(passed)) <= sum(passed) <= 21 + filled


def test_without_redis_everyone_passes_and_nobody_waits_for_it_again(shop, monkeypatch):
    asked = []

    class Away:
        def register_script(self, text):
            def run(**_):
                asked.append(text)
                raise RedisConnectionError("away")

            return run

    before = throttle.UNCOUNTED._value.get()
    monkeypatch.setattr("foundation.redis.client", Away)
    answers = [shop.storefront.get("/api/v1/products") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert "RateLimit" not in answers[0].headers
    assert len(asked) == 1
    assert throttle.UNCOUNTED._value.get() == before + 3
