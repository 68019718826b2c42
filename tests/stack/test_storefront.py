"""docs/storefront.md and the client of docs/examples, as a shop's developers run them beside `make up`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from uuid import uuid4

import pytest
import requests

from tests.stack.shop import Shop
from tests.stack_process import ROOT

pytestmark = pytest.mark.stack
CLIENT = ROOT / "docs" / "examples" / "storefront.py"
LONGEST_S = 120  # a sale takes a second; a machine that is busy with other tests may take its time
PAGE = (ROOT / "docs" / "storefront.md").read_text()


class Storefront:
    """The documented client, as a process of its own with a database of its own."""

    def __init__(self, shop: Shop, database: Path) -> None:
        self._shop, self._database = shop, database

    def start(self, cart: str, *lines: str, url: str = "") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-I", str(CLIENT), str(self._database), cart, *lines],  # -I: nothing but the library
            env={
                "EVERYCENT_URL": url or self._shop.info["url"],
                "EVERYCENT_KEY": self._shop.info["storefront_key"],
                "STRIPE_SANDBOX_URL": self._shop.sandbox,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def buys(self, cart: str, *lines: str) -> str:
        """The number of the order, once it is paid."""
        process = self.start(cart, *lines)
        try:
            said, complained = process.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            process.kill()
            said, complained = process.communicate()
            pytest.fail(f"not paid within {LONGEST_S} s\n{said}{complained}\n{self._shop.what_waits()}")
        assert process.returncode == 0, said + complained
        return said.rpartition("order ")[2].partition(" is paid")[0]


@pytest.fixture
def shop(stack) -> Shop:
    return Shop(stack)


@pytest.fixture
def storefront(shop, tmp_path) -> Storefront:
    return Storefront(shop, tmp_path / "shop.sqlite3")


def orders_of(shop: Shop, product: str) -> list[tuple[str]]:
    return shop.rows("SELECT order_id::text FROM orders_orderitem WHERE product = %s", product)


def test_the_documented_client_sells_a_cart_once_however_often_it_is_run(shop, storefront):
    product = shop.sell(5)
    number = storefront.buys("cart-1", f"{product}=2")
    assert shop.order(number)["total"] == 3000
    assert storefront.buys("cart-1", f"{product}=2") == number
    assert shop.wait_for(number, status="paid")
    assert shop.shelf(product)[0] in (3, 5)  # taken out by the sale that follows
    assert storefront.buys("cart-2", f"{product}=1") != number


@contextmanager
def killing(client: list[subprocess.Popen[str]], url: str) -> Iterator[str]:
    """An address in front of the shop, where whoever checks out is killed once it was done, before the answer."""

    class Cut(BaseHTTPRequestHandler):
        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = requests.request(self.command, url + self.path, data=body, headers=dict(self.headers), timeout=30)
            if self.command == "POST":
                assert answer.status_code == 201, answer.text
                client[0].kill()
                return
            self.send_response(answer.status_code)
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = forward  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Cut)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_client_that_dies_after_sending_goes_on_with_the_same_order(shop, storefront):
    product = shop.sell(5)
    client: list[subprocess.Popen[str]] = []
    with killing(client, shop.info["url"]) as url:
        client.append(storefront.start("cart-1", f"{product}=1", url=url))
        client[0].communicate(timeout=60)
    assert client[0].returncode == -9
    assert shop.shelf(product) == (5, 1)  # it was done, and it does not know
    storefront.buys("cart-1", f"{product}=1")
    assert len(orders_of(shop, product)) == 1


def test_the_client_says_what_is_left(shop, storefront):
    product = shop.sell(1)
    process = storefront.start("cart-1", f"{product}=2")
    _, complained = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"only 1 of {product} are left" in complained
    storefront.buys("cart-1", f"{product}=1")  # the refusal consumed nothing: the cart goes on, changed


def test_after_a_decline_the_client_pays_the_same_order_by_another_payment(shop, storefront):
    """The first attempt of this cart was confirmed by the shop's server, with a saved card that was declined."""
    product = shop.sell(5)
    script = (
        "import runpy, sys, os; client = runpy.run_path(sys.argv[1]);"
        "api = client['Api'](os.environ['EVERYCENT_URL'], os.environ['EVERYCENT_KEY']);"
        "requests = client['Remembered'](sys.argv[2], api);"
        "body = {'customer': {'id': 'c1'}, 'items': [{'product': sys.argv[3], 'quantity': 1}],"
        " 'payment': {'method': 'card', 'payment_method': 'pm_card_chargeDeclined', 'confirm': True}}\n"
        "try: requests.post('checkout cart-1', '/checkout', body)\n"
        "except client['Refused'] as refusal: print(refusal.code, refusal.problem['order']['number'])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(CLIENT), str(storefront._database), product],
        env={"EVERYCENT_URL": shop.info["url"], "EVERYCENT_KEY": shop.info["storefront_key"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("card_declined "), done.stdout + done.stderr
    number = done.stdout.split()[1]
    assert storefront.buys("cart-1", f"{product}=1") == number
    assert [payment["status"] for payment in shop.order(number)["payments"]] == ["failed", "succeeded"]


def test_what_the_page_shows_to_begin_with_works_as_it_stands_there(stack, tmp_path):
    (tmp_path / "var").symlink_to(stack.var)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    script = PAGE.partition("```sh\n")[2].partition("```")[0].replace("var/my-shop.sqlite3", f"{tmp_path}/{uuid4()}")
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["sh", "-eu", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is paid" in done.stdout
    browser = json.loads(done.stdout.partition("for the browser:")[2].splitlines()[0])
    assert browser.keys() == {"client_secret", "order"}
