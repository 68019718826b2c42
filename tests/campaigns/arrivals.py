"""An open-loop load: visits begin when the clock says so, however slow the shop is at the moment.

A closed loop waits for the shop before it asks again, and so measures least when it matters most ("coordinated
omission"). Here a request's latency runs from the moment at which its visitor wanted to send it, through every retry,
to its final answer; what waits for a free thread of ours waits on the shop's bill.
"""

import contextlib
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import requests

from tests.campaigns.shoppers import JOURNEYS, Addresses, Client, Json, NeverAnswered, Told

MOST_AT_ONCE = 400  # visits in work; more would be a shop that stands still

_NUMBER = re.compile(r"(ord|pay|ref)_[0-9a-z]+")


@dataclass(frozen=True, slots=True)
class Request:
    """One request until its final answer. Times in seconds since the load began."""

    kind: str
    wanted_s: float
    latency_s: float


class Journal:
    """What all visitors measured. Lists are appended to by many threads, read by one."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.requests: list[Request] = []
        self.errors: Counter[tuple[str, str]] = Counter()  # (kind, what came instead of an answer) → tries
        self._lock = threading.Lock()

    def note(self, kind: str, wanted: float) -> None:
        self.requests.append(Request(kind, wanted - self.began, time.monotonic() - wanted))

    def failed(self, kind: str, why: str) -> None:
        with self._lock:
            self.errors[kind, why] += 1


def kind_of(method: str, path: str) -> str:
    """`POST /orders/ord_01…/ship` → `POST /orders/{number}/ship`."""
    path = path.split("?", maxsplit=1)[0]
    parts = _NUMBER.sub("{number}", path).split("/")
    if parts[1] == "stock" and len(parts) > 2:
        parts[2] = "{product}"
    return f"{method} {'/'.join(parts)}"


class MeasuringClient(Client):
    """A client whose first request was wanted at a given moment, each later one as soon as the one before was answered."""

    def __init__(
        self,
        shop: Addresses,
        told: Told,
        rng: random.Random,
        stopping: threading.Event,
        *,
        journal: Journal,
        wanted: float,
    ) -> None:
        super().__init__(shop, told, rng, stopping)
        self._journal = journal
        self._wanted: float | None = wanted
        self._session = _CountingSession(journal, shop.url)

    def _until_final(self, method: str, path: str, scope: str, *, headers: Json, **request: Any) -> tuple[int, Json]:
        wanted, self._wanted = self._wanted or time.monotonic(), None
        answer = super()._until_final(method, path, scope, headers=headers, **request)
        self._journal.note(kind_of(method, path), wanted)
        return answer


class _CountingSession(requests.Session):
    """Counts the tries that had no final answer."""

    def __init__(self, journal: Journal, shop: str) -> None:
        super().__init__()
        self.trust_env = False
        self._journal = journal
        self._api = f"{shop}/api/v1"

    def request(self, method: Any, url: Any, *positional: Any, **named: Any) -> requests.Response:
        if not str(url).startswith(self._api):
            return super().request(method, url, *positional, **named)  # the customer's browser at the provider
        kind = kind_of(method, str(url).removeprefix(self._api))
        try:
            answer = super().request(method, url, *positional, **named)
        except requests.RequestException as error:
            self._journal.failed(kind, type(error).__name__)
            raise
        if answer.status_code >= 500 or answer.status_code == 429:
            self._journal.failed(kind, str(answer.status_code))
        elif answer.status_code == 409 and "in_use" in answer.text:
            self._journal.failed(kind, "409 key in use")
        return answer


class Arrivals:
    """Visits at a rate, Poisson: as independent visitors come."""

    def __init__(self, shop: Addresses, *, per_s: float, seed: str) -> None:
        self.told = Told()
        self.journal = Journal()
        self.in_work = 0
        self._shop = shop
        self._per_s = per_s
        self._rng = random.Random(seed)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="visitor")
        self._doorman = threading.Thread(target=self._let_in, daemon=True)
        self._doorman.start()

    def _let_in(self) -> None:
        wanted = time.monotonic()
        journeys, weights = list(JOURNEYS), list(JOURNEYS.values())
        while not self._stopping.wait(max(0.0, wanted - time.monotonic())):
            (journey,) = self._rng.choices(journeys, weights)
            self._threads.submit(self._visit, journey, random.Random(self._rng.random()), wanted)
            wanted += self._rng.expovariate(self._per_s)

    def _visit(self, journey: Any, rng: random.Random, wanted: float) -> None:
        with self._lock:
            self.in_work += 1
        client = MeasuringClient(self._shop, self.told, rng, self._stopping, journal=self.journal, wanted=wanted)
        try:
            journey(client)
        except NeverAnswered:
            pass  # noted where it happened
        finally:
            client.close()
            with self._lock:
                self.in_work -= 1

    def stop(self) -> Told:
        """No new visits; when all have ended, what the visitors were told."""
        self._stopping.set()
        self._doorman.join()
        self._threads.shutdown(wait=True)
        return self.told


def closed_loop(shop: Addresses, *, visitors: int, seconds: float, seed: str) -> tuple[float, Told]:
    """So many visitors, each beginning its next visit at once: visits that ended in a second, what they were told.

    The first third of the time warms up and is not counted.
    """
    began = time.monotonic()
    told, journal, stopping = Told(), Journal(), threading.Event()
    ended: list[float] = []

    def visit_again_and_again(rng: random.Random) -> None:
        while not stopping.is_set():
            (journey,) = rng.choices(list(JOURNEYS), weights=list(JOURNEYS.values()))
            client = MeasuringClient(shop, told, rng, stopping, journal=journal, wanted=time.monotonic())
            with contextlib.suppress(NeverAnswered):
                journey(client)
            client.close()
            if not stopping.is_set():
                ended.append(time.monotonic())

    threads = [
        threading.Thread(target=visit_again_and_again, args=[random.Random(f"{seed}:{number}")], daemon=True)
        for number in range(visitors)
    ]
    for thread in threads:
        thread.start()
    stopping.wait(seconds)
    stopping.set()
    for thread in threads:
        thread.join()
    warm = began + seconds / 3
    return sum(moment >= warm for moment in ended) / (seconds * 2 / 3), told


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
