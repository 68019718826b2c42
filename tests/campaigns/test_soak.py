"""The parts of `make soak` that could deceive: what counts as flat, from when a latency runs, what is drawn and said."""

import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from xml.etree import ElementTree

import pytest
from django.apps import apps

from tests.campaigns import soak
from tests.campaigns.arrivals import Arrivals, Request, kind_of, quantile
from tests.campaigns.memory import WARM_UP_S, Sample, trends
from tests.campaigns.picture import Panel, draw
from tests.campaigns.shoppers import Addresses, Client


def samples(mb_at, *, minutes: int = 30, killed_every_s: int = 300) -> list[Sample]:
    """A role whose process is replaced every five minutes; `mb_at(seconds of its life)`."""
    return [
        Sample(at_s, "web", 100, {at_s // killed_every_s: mb_at(at_s % killed_every_s)})
        for at_s in range(0, minutes * 60, 5)
    ]


def test_memory_that_warms_up_after_each_restart_and_then_stays_is_flat():
    trend = trends(samples(lambda lived_s: min(100 + lived_s / 2, 100 + WARM_UP_S / 2)))["web"]
    assert (trend.verdict, round(trend.growth_mb_h)) == ("flat", 0)


def test_a_sibling_that_dies_is_no_growth():
    """Its share of what was shared falls to the others; none of them has written more."""
    alone = [Sample(one.at_s, "web", 200, {7: 100, **one.written}) for one in samples(lambda _: 100)]
    assert trends(alone)["web"].verdict == "flat"


def test_memory_that_grows_a_little_in_each_life_grows():
    trend = trends(samples(lambda lived_s: 100 + lived_s * 60 / 3600))["web"]
    assert (trend.verdict, round(trend.growth_mb_h)) == ("GROWS", 60)


def test_what_a_lost_database_costs_a_process_once_is_no_growth_and_a_leak_beside_it_is():
    """A third of each life after the warm-up is over when it happens, and it costs 8 MB."""
    shaken_at = [at_s + 220 for at_s in range(0, 1800, 300)]

    def shaken(lived_s: float) -> float:
        return 100 + 8 * (lived_s >= 220)

    def leaking(lived_s: float) -> float:
        return shaken(lived_s) + lived_s * 60 / 3600

    assert trends(samples(shaken))["web"].verdict == "GROWS"
    assert trends(samples(shaken), shaken_at)["web"].growth_mb_h == 0
    trend = trends(samples(leaking), shaken_at)["web"]
    assert round(trend.growth_mb_h) == 60


def test_noise_is_no_growth():
    rng = random.Random(1)
    assert trends(samples(lambda _: 100 + rng.uniform(-3, 3)))["web"].verdict == "flat"


def test_a_short_run_is_not_judged():
    assert trends(samples(lambda lived_s: 100 + lived_s, minutes=5))["web"].verdict == "too short to tell"


def test_requests_of_one_kind_have_one_name():
    assert kind_of("POST", "/orders/ord_01m7y788n7ebabp5sehcgvr4ex/ship") == "POST /orders/{number}/ship"
    assert kind_of("POST", "/stock/book-7/restock") == "POST /stock/{product}/restock"
    assert kind_of("GET", "/products?search=x") == "GET /products"


def test_quantiles():
    values = [float(number) for number in range(1, 101)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile([], 0.5)) == (51, 100, 0)


class OneAtATime(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        time.sleep(0.05)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def slow_shop():
    server = HTTPServer(("127.0.0.1", 0), OneAtATime)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Addresses(f"http://127.0.0.1:{server.server_port}", "s", "o", str, ())
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_shop_that_is_too_slow_for_its_visitors_is_seen_to_be(slow_shop, monkeypatch):
    """It answers 20 visitors a second, and 60 come: a client that waited for it would report 50 ms for ever."""

    def look(client: Client) -> None:
        client.get("/orders")

    monkeypatch.setattr("tests.campaigns.arrivals.JOURNEYS", {look: 1})
    arrivals = Arrivals(slow_shop, per_s=60, seed="1")
    time.sleep(1.0)
    arrivals.stop()
    latencies = [one.latency_s for one in sorted(arrivals.journal.requests, key=lambda one: one.wanted_s)]
    assert len(latencies) > 30
    assert latencies[-1] > 0.25  # five times what one visit takes


def test_every_table_that_may_stay_exists(db):
    tables = {model._meta.db_table for model in apps.get_models(include_auto_created=True)}
    assert set(soak.STAYS) <= tables


def test_a_table_that_grows_and_that_nobody_cleans_is_found():
    seen = soak.Soak(
        1, 1, before={"orders_order": (1, 8192), "news": (0, 0)}, after={"orders_order": (9, 8192), "news": (1, 8192)}
    )
    assert [name for name in soak.grown(seen) if name not in soak.STAYS] == ["news"]


def test_the_picture_is_well_formed_and_shows_each_line_and_kill():
    line = [(0.0, 1.0), (60.0, 250.0), (120.0, 3.0)]
    svg = draw(
        "A <title>", "b", [Panel("MB", {"web & co": line}), Panel("ms", {"p99": line}, log=True)], marks={30: "web"}
    )
    tree = ElementTree.fromstring(svg)
    texts = [node.text for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A <title>", "web & co", "p99"} <= set(texts)
    assert sum(node.text == "web" for node in tree.iter("{http://www.w3.org/2000/svg}title")) == 2


def test_what_was_wanted_right_after_a_kill_is_shown_apart():
    seen = soak.Soak(1, 1, kills={30.0: "web"}, errors=Counter({("GET /x", "503"): 2}))
    seen.requests = [Request("GET /x", second, 5.0 if second == 31 else 0.01) for second in range(60)]
    [row, _] = soak.latency_rows(seen)
    assert row == ["GET /x", 60, 10, 10, 5000, 5000]
    assert "| GET /x" in soak.summary(seen)
    assert "findings" in soak.summary(seen)
