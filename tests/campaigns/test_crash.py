"""A short crash campaign; `make crash` is the long one. And what it is made of: the proxy, turned clocks, its memory."""

import http.server
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter

import psycopg
import pytest
import requests

from tests import servers
from tests.campaigns import crash, proxy
from tests.campaigns.crash import Campaign, Damage, Round, State
from tests.campaigns.proxy import Proxy
from tests.campaigns.stack import FAKETIME, own_clock

SHORT = 6  # kills, in one round


@pytest.fixture
def folder():
    path = servers.TEST_DATA / f"{os.getpid()}-crash"
    path.mkdir(parents=True)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.xdist_group("campaign")
def test_a_round_of_kills_loses_nothing_and_a_loss_ends_the_campaign(folder):
    campaign = Campaign(folder, State(seed=1, commit="now"))
    with campaign.running():
        done = campaign.round(kills=SHORT)
        with psycopg.connect(campaign.stack.info["database_url"]) as connection:
            connection.execute("UPDATE inventory_stock SET on_hand = on_hand + 1")
        with pytest.raises(Damage, match="stock_log"):
            campaign.round(kills=0)

    assert sum(done.kills.values()) == SHORT
    assert done.did["checkouts"] > 0
    kept = State.read(folder)
    assert kept is not None
    assert (kept.kills, len(kept.rounds), kept.audit["cents_off"]) == (SHORT, 1, 0)
    assert len(Campaign(folder, kept).told.accepted) == len(campaign.told.accepted)


# --- The proxy ------------------------------------------------------------------------------------------


class Provider(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[float] = []

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(time.monotonic())
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


@pytest.fixture
def provider():
    Provider.seen.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def wire(provider):
    made = Proxy(lambda: f"http://127.0.0.1:{provider.server_port}", seed="1")
    yield made
    made.stop()


def send(wire: Proxy, *, timeout_s: float = 10) -> str:
    """The answer, or how it failed."""
    try:
        return requests.post(wire.url, data=b"x" * 1000, timeout=timeout_s).text
    except requests.RequestException as error:
        return type(error).__name__


def test_a_proxy_that_behaves_passes_everything_on(wire):
    with requests.Session() as session:
        assert [session.post(wire.url, data=b"x", timeout=10).text for _ in range(3)] == ["ok"] * 3
    assert len(Provider.seen) == 3
    assert not wire.hit


@pytest.mark.parametrize(("kind", "arrived"), [(proxy.CUT_BEFORE, 0), (proxy.RESET, 0), (proxy.CUT_AFTER, 1)])
def test_a_cut_connection_fails_with_or_without_the_effect(wire, kind, arrived):
    wire.misbehave(kind, seconds=60, share=1)
    assert send(wire) == "ConnectionError"
    assert len(Provider.seen) == arrived
    assert wire.hit == Counter({kind: 1})
    wire.behave()
    assert send(wire) == "ok"


def test_a_held_request_arrives_though_its_caller_has_gone(wire, monkeypatch):
    monkeypatch.setattr(proxy, "_HELD_S", (1.0,))
    wire.misbehave(proxy.HELD, seconds=60, share=1)
    began = time.monotonic()
    assert send(wire, timeout_s=0.3) == "ReadTimeout"
    assert not Provider.seen
    deadline = began + 10
    while not Provider.seen and time.monotonic() < deadline:
        time.sleep(0.05)
    assert Provider.seen[0] - began >= 1.0


def test_a_provider_that_is_not_there_refuses(wire, provider):
    provider.shutdown()
    provider.server_close()
    assert send(wire) == "ConnectionError"


# --- Turned clocks --------------------------------------------------------------------------------------


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
@pytest.mark.parametrize("off_s", [0, 90_000, -90_000])
def test_a_turned_clock_moves_the_date_and_no_pause(tmp_path, off_s):
    assert FAKETIME
    (tmp_path / "clock").write_text(f"{off_s:+d}")
    program = "import time; began = time.monotonic(); time.sleep(0.2); print(time.time(), time.monotonic() - began)"
    environment = own_clock(tmp_path / "clock", FAKETIME, os.environ)
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    wall, slept = map(float, said.stdout.split())
    assert abs(wall - time.time() - off_s) < 10
    assert 0.2 <= slept < 5


# --- Its memory -----------------------------------------------------------------------------------------


def test_a_campaign_is_remembered_and_summed_up(tmp_path):
    state = State(seed=7, commit="abc")
    for number in (1, 2):
        done = Round(number, Counter(web=3), Counter({"held": 2}), Counter(checkouts=5), healed_s=number)
        state.rounds.append(done)
    state.audit = {"orders": {"paid": 4, "shipped": 1, "cancelled": 2}, "charges": 6, "refunds": 1, "cents_off": 0}
    state.audit |= {"captured": 9_000, "refunded": 500, "replays": 3}
    state.write(tmp_path)

    kept = State.read(tmp_path)

    assert kept == state
    assert "| web        |     6 |" in crash.summary(kept)
    assert "| orders sold " in crash.summary(kept)


@pytest.mark.parametrize(
    ("environment", "seed", "kills"),
    [({}, 7, 3), ({"SEED": "7"}, 7, 3), ({"SEED": "8"}, 8, 0), ({"NEW": "1", "SEED": "7"}, 7, 0)],
)
def test_it_goes_on_unless_told_to_begin_anew(tmp_path, monkeypatch, environment, seed, kills):
    for name in ("SEED", "NEW"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    State(seed=7, commit="abc", rounds=[Round(1, Counter(web=3))]).write(tmp_path)
    state = crash.begin_or_go_on(tmp_path)
    assert (state.seed, state.kills) == (seed, kills)
