"""Schemathesis against the running stack: every call of docs/openapi.yaml, with what fits it and with what does not."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.contract import DOCUMENT, operations
from tests.stack.shop import Shop

pytestmark = pytest.mark.stack
SETTINGS = Path(__file__).with_name("schemathesis.toml")
TIMEOUT_S = 120  # it ends after `max-time` of its settings, but finishes what it is at
PRODUCTS = ["the-trial", "the-castle"]
AT_ONCE = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}
DECLINED = AT_ONCE | {"payment_method": "pm_card_chargeDeclined"}


@pytest.fixture
def shop(stack) -> Iterator[Shop]:
    """A merchant of its own, whose key may do everything. No open order of it is left: another test pays such a one in silence."""
    shop = Shop(stack)
    code = (
        "from catalog import services\n"
        f"merchant = services.create_merchant(name='Fuzzed {uuid4()}', currency='usd')\n"
        "print(services.issue_api_key(merchant_id=merchant.id, name='fuzz', scopes=['storefront', 'operations']))"
    )
    _, said = shop.manage("shell", "--no-imports", "-c", code)
    shop.info["operations_key"] = shop.info["storefront_key"] = said.strip()
    yield shop
    more = True
    while more:
        page = shop.get("/orders?status=pending&limit=100")
        more = page["has_more"]
        cancelled = [shop.call("POST", f"/orders/{order['number']}/cancel") for order in page["data"]]
        more = more and any(answer.status_code == 200 for answer in cancelled)


@pytest.fixture
def folder(shop, tmp_path: Path) -> Path:
    """What the settings name: products on the shelf, and orders, payments and a refund in every state that is soon reached."""
    for product in PRODUCTS:
        document = {"id": product, "title": "三体", "author": "刘慈欣", "price": 1500, "currency": "usd"}
        done(shop.call("POST", "/products", document))
        done(shop.call("POST", f"/stock/{product}/restock", {"quantity": 1000}))
    sales = [check_out(shop, payment) for payment in (AT_ONCE, AT_ONCE, AT_ONCE, None, None, DECLINED)]
    _, shipped, _, _, cancelled, _ = orders = [sale["order"]["number"] for sale in sales]
    for number in orders[:3]:
        shop.wait_for(number, status="paid")
    refund = done(
        shop.call("POST", f"/payments/{sales[0]['payment']['number']}/refunds", {"amount": 500, "reason": "r"})
    )
    done(shop.call("POST", f"/orders/{shipped}/ship", {}))
    done(shop.call("POST", f"/orders/{cancelled}/cancel"))
    write(tmp_path / "products", PRODUCTS)
    write(tmp_path / "orders", orders)
    write(tmp_path / "payments", [sale["payment"]["number"] for sale in sales])
    write(tmp_path / "refunds", [refund["number"]])
    shutil.copy(SETTINGS, tmp_path)
    return tmp_path


def check_out(shop: Shop, payment: Any) -> Any:
    body = {"customer": {"id": "c1"}, "items": [{"product": PRODUCTS[0], "quantity": 1}]}
    return shop.call("POST", "/checkout", body | ({"payment": payment} if payment else {})).json()


def done(answer: Any) -> Any:
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def write(path: Path, values: list[str]) -> None:
    path.write_text("".join(f'"{value}"\n' for value in values))


def test_no_call_breaks_or_answers_what_is_not_documented(shop, folder):
    seed = os.environ.get("SEED")
    report = folder / "report.json"
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(folder / SETTINGS.name)),
            *("run", str(DOCUMENT), "--report-json-path", str(report), *(("--seed", seed) if seed else ())),
        ],
        cwd=folder,
        env=os.environ | {"EVERYCENT_URL": shop.info["url"], "EVERYCENT_KEY": shop.info["operations_key"]},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr
    assert json.loads(report.read_text())["operations"]["tested"] == len(list(operations()))
