"""docs/examples/consumer.py as whoever copies it runs it: a process that is killed, and counts each event once."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction

from config.devstack import system
from durability import services, stream, tasks
from foundation import redis
from payments.events import PaymentCaptured, RefundSucceeded

CONSUMER = Path(__file__).resolve().parents[2] / "docs" / "examples" / "consumer.py"
EVENTS = 200
STREAM = "everycent:events"
ABOUT: dict[str, Any] = {"merchant_id": "m", "reference": "ord_1", "currency": "usd", "provider_reference": "pi_1"}


class Consumer:
    def __init__(self, database: Path) -> None:
        self.database = database
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(CONSUMER), str(self.database)],
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
            preexec_fn=system.bound_to_us(signal.SIGKILL),  # noqa: PLW1509  (two system calls)
        )

    def end(self, number: signal.Signals) -> int:
        assert self._process
        self._process.send_signal(number)
        return self._process.wait(20)

    def rows(self, query: str):
        with closing(sqlite3.connect(self.database, timeout=30)) as database:
            try:
                return database.execute(query).fetchall()
            except sqlite3.OperationalError:  # no such table yet
                return []

    @property
    def handled(self) -> int:
        return sum(count for (count,) in self.rows("SELECT count(*) FROM handled"))

    @property
    def totals(self) -> set[tuple[str, str, int, int]]:
        return set(self.rows("SELECT what, currency, minor, events FROM total"))

    @contextmanager
    def frozen(self):
        """It can read, and write nothing: killed in here, it is in the middle."""
        assert system.wait_until(
            lambda: bool(self.rows("SELECT 1 FROM sqlite_master WHERE name = 'total'")), timeout_s=20
        )
        with closing(sqlite3.connect(self.database, timeout=30, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            yield
            database.execute("ROLLBACK")

    def wait_for(self, handled: int) -> None:
        assert system.wait_until(lambda: self.handled >= handled, timeout_s=60), self.handled


@pytest.fixture
def consumer(tmp_path):
    consumer = Consumer(tmp_path / "statistics.sqlite3")
    yield consumer
    if consumer._process and consumer._process.poll() is None:
        consumer.end(signal.SIGKILL)


@pytest.fixture
def published(transactional_db, valkey):
    return publish(1, EVENTS)


def publish(first: int, last: int) -> int:
    """Captures of so many cents each, and a refund of one cent after every tenth. How many events."""
    events = 0
    with transaction.atomic():
        for number in range(first, last + 1):
            payment = f"pay_{number % 7}"
            services.publish(PaymentCaptured(payment=payment, amount_minor=number, settling=True, **ABOUT))
            events += 1
            if number % 10 == 0:
                services.publish(RefundSucceeded(refund="ref_1", payment=payment, amount_minor=1, **ABOUT))
                events += 1
    tasks.mirror()
    return events


def unacknowledged() -> int:
    groups = {group["name"]: group["pending"] for group in redis.client().xinfo_groups(STREAM)}
    return int(groups.get("statistics", 0))  # none before the consumer has made its group


TOTALS = {
    ("captured", "usd", EVENTS * (EVENTS + 1) // 2, EVENTS),
    ("refunded", "usd", EVENTS // 10, EVENTS // 10),
}


def test_each_event_counts_once_however_often_the_consumer_is_killed(consumer, transactional_db, valkey):
    part, published = EVENTS // 4, 0
    for kill in range(4):
        consumer.start()
        consumer.wait_for(published)
        with consumer.frozen():
            published += publish(kill * part + 1, (kill + 1) * part)
            assert system.wait_until(lambda: unacknowledged() > 0, timeout_s=20)
            consumer.end(signal.SIGKILL)  # it has read events, and counted none of them
    consumer.start()
    consumer.wait_for(published)
    assert consumer.totals == TOTALS
    assert consumer.end(signal.SIGTERM) == 0


def test_what_is_written_a_second_time_counts_once(consumer, published):
    """A worker that died wrote a batch again; an operator refilled the stream."""
    consumer.start()
    consumer.wait_for(published)
    stream.refill()
    client = redis.client()
    assert client.xlen("everycent:events") == 2 * published
    with transaction.atomic():
        services.publish(PaymentCaptured(payment="pay_0", amount_minor=1_000_000, settling=True, **ABOUT))
    tasks.mirror()
    consumer.wait_for(published + 1)
    captured, refunded = sorted(consumer.totals)
    assert captured == ("captured", "usd", EVENTS * (EVENTS + 1) // 2 + 1_000_000, EVENTS + 1)
    assert refunded in TOTALS
    assert consumer.end(signal.SIGTERM) == 0
    assert client.xpending("everycent:events", "statistics")["pending"] == 0


def test_killed_between_the_effect_and_the_acknowledgement_it_is_not_counted_twice(consumer, published):
    """The same, without luck: Redis forgets that anything was acknowledged."""
    consumer.start()
    consumer.wait_for(published)
    consumer.end(signal.SIGKILL)
    client = redis.client()
    client.xgroup_destroy("everycent:events", "statistics")
    client.xgroup_create("everycent:events", "statistics", id="0")
    client.xreadgroup("statistics", "statistics-1", {"everycent:events": ">"}, count=published // 2)
    consumer.start()

    def everything_is_acknowledged() -> bool:
        (group,) = client.xinfo_groups("everycent:events")
        return (group["lag"], group["pending"]) == (0, 0)

    assert system.wait_until(everything_is_acknowledged, timeout_s=60)
    assert (consumer.handled, consumer.totals) == (published, TOTALS)


def test_after_redis_lost_everything_it_goes_on_with_the_refill(consumer, published):
    consumer.start()
    consumer.wait_for(published // 2)
    redis.client().flushdb()
    time.sleep(0.1)
    stream.refill()
    consumer.wait_for(published)
    assert consumer.totals == TOTALS
