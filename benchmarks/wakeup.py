"""From a commit to its handler, with a real Celery worker that waits for the doorbell."""

import os
import random
import time
from functools import partial

from django.db import transaction

from benchmarks.harness import SEED, Section, quantile
from benchmarks.worker import BEGAN, Woken, running, wait
from durability import services
from foundation.redis import client

EVENTS = int(os.environ.get("EVENTS", "500"))
WARM_UP = 20
LONGEST_PAUSE_S = 0.1


def run() -> None:
    pause = random.Random(SEED)
    committed: dict[int, int] = {}

    def publish(number: int) -> None:
        with transaction.atomic():
            # Registered before the doorbell's own hook: the moment right after the commit.
            transaction.on_commit(lambda: committed.__setitem__(number, time.monotonic_ns()))
            services.publish(Woken(number))

    section = Section("wakeup", "From a commit to its handler")
    client().flushdb()
    with running("own", concurrency=2):
        for number in range(WARM_UP + EVENTS):
            publish(number)
            wait(partial(_has_begun, number), f"nobody handled event {number}")
            time.sleep(pause.uniform(0.01, LONGEST_PAUSE_S))
    began = dict(map(int, text.split(":")) for text in client().lrange(BEGAN, 0, -1))
    waited_ms = [(began[number] - committed[number]) / 1e6 for number in range(WARM_UP, WARM_UP + EVENTS)]
    p50, p99 = quantile(waited_ms, 0.5), quantile(waited_ms, 0.99)
    section.say(
        f"{EVENTS:,} events, one at a time, {LONGEST_PAUSE_S * 1e3:.0f} ms apart at most: median {p50:.1f} ms, "
        f"p99 {p99:.1f} ms, longest {max(waited_ms):.1f} ms."
    )
    section.aim("commit → handler p99 ≤ 10 ms on an idle machine", met=p99 <= 10, measured=f"{p99:.1f} ms")
    section.close()


def _has_begun(number: int) -> bool:
    return client().llen(BEGAN) > number
