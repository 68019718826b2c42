"""The process itself: how it starts, refuses to, ends, and what it carries along."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import requests
import stripe

from tests.sandbox_process import ROOT


def run(*arguments: str, timeout_s: float = 10, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "payments.sandbox", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=timeout_s
    )


def assert_one_clear_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("key", ["sk_live_123", "rk_live_123"])
def test_it_refuses_to_start_beside_a_live_key(tmp_path, key):
    done = run("--port", "0", "--storage", str(tmp_path / "s"), STRIPE_API_KEY=key)
    assert_one_clear_line(done, "STRIPE_API_KEY", "live key")
    assert key not in done.stderr
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "example.com", "::"])
def test_it_refuses_to_listen_off_loopback(tmp_path, host):
    assert_one_clear_line(run("--host", host, "--storage", str(tmp_path / "s")), host, "loopback")


def test_a_taken_port_is_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_one_clear_line(run("--port", port, "--storage", str(tmp_path / "s")), port, "in use")


def test_storage_in_use_or_unusable_is_one_line(shop, tmp_path):
    assert_one_clear_line(run("--port", "0", "--storage", str(shop.sandbox.storage)), "another sandbox")
    (tmp_path / "file").write_text("no database")
    assert_one_clear_line(run("--port", "0", "--storage", str(tmp_path / "file")), "cannot open")
    assert_one_clear_line(run("--port", "0", "--storage", str(tmp_path / "file" / "below")), "cannot open")


def test_a_webhook_address_must_be_http(tmp_path):
    assert_one_clear_line(run("--storage", str(tmp_path / "s"), "--webhook-url", "ftp://x"), "ftp://x")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_within_a_second(shop, number):
    with requests.Session() as session:  # an open connection does not hold it up
        session.get(f"{shop.sandbox.url}/livez", timeout=5)
        begun = time.monotonic()
        shop.sandbox.process.send_signal(number)
        assert shop.sandbox.process.wait(5) == 0
    assert time.monotonic() - begun < 1


def test_it_loads_neither_django_nor_the_sdk_nor_the_product():
    code = (
        "import sys, payments.sandbox.__main__ as m;"
        "top = {n.split('.')[0] for n in sys.modules};"
        "ours = {n for n in sys.modules if n.startswith('payments.') and not n.startswith('payments.sandbox')};"
        "print(sorted(top & {'django', 'stripe', 'requests', 'config', 'foundation', 'durability'}), sorted(ours))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"


def test_everything_survives_a_kill_at_any_moment(shop):
    """Killed in the middle of a burst: each answered payment is there, and the books are whole."""
    answered = []
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.4; kill -9 {shop.sandbox.process.pid}"])
    with contextlib.suppress(stripe.APIConnectionError):
        while True:
            answered.append(shop.pay().latest_charge)
    killer.wait()
    shop.sandbox.process.wait()
    shop.sandbox.restart()
    charges = [charge.id for charge in shop.v1.charges.list({"limit": 100}).auto_paging_iter()]
    assert answered
    assert set(answered) <= set(charges)
    assert len(charges) <= len(answered) + 1
    books = shop.sandbox.books()
    assert books["captured"]["usd"] == 2500 * len(charges)
    assert books["balance"]["usd"] == (2500 - 103) * len(charges)
    told = [
        event.data.object.id
        for event in shop.v1.events.list({"type": "charge.succeeded", "limit": 100}).auto_paging_iter()
    ]
    assert told == charges


def test_malformed_requests_get_400_and_the_server_goes_on(shared_shop):
    port = shared_shop.sandbox.port
    for junk in (
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(junk)
            assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    assert shared_shop.http("GET", "/v1/balance").status_code == 200
    assert requests.get(f"{shared_shop.sandbox.url}/livez", timeout=5).json() == {"status": "ok"}


def test_answers_carry_stripes_headers(shared_shop):
    answer = shared_shop.http("GET", "/v1/balance", **{"Stripe-Version": "2024-06-20"})
    assert answer.headers["Stripe-Version"] == "2024-06-20"
    assert shared_shop.http("GET", "/v1/balance").headers["Request-Id"] != answer.headers["Request-Id"]
