"""The way of a sale over HTTP, on the processes that `make up` runs: nothing is mocked, nothing is called directly."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, time, timedelta
from uuid import uuid4

import pytest

from tests.stack.shop import Shop, eventually

pytestmark = pytest.mark.stack


@pytest.fixture
def shop(stack) -> Shop:
    return Shop(stack)


@pytest.fixture
def quick_expiry(shop):
    """Orders that are placed meanwhile expire after two seconds."""
    change = "UPDATE catalog_merchant SET order_expires_after_s = %s"
    shop.rows(change, 2)
    yield
    shop.rows(change, 900)


@pytest.fixture
def another_day(shop):
    """A finished day on which nothing else happens: the provider's clock stands at its noon."""
    today = datetime.now(UTC)
    noon = datetime.combine(today.date() - timedelta(days=5), time(12), UTC)
    back_s = int((noon - today).total_seconds())
    shop.control("clock", advance_s=back_s)
    yield noon.date()
    shop.control("clock", advance_s=-back_s)


def paid(shop: Shop, product: str, quantity: int = 1, **more: str):
    """A checkout that the customer's browser confirms; the order once it is paid."""
    answer = shop.check_out(product, quantity, **more)
    assert answer.status_code == 201, answer.text
    assert shop.confirm(answer.json()["payment"]) == "succeeded"
    return shop.wait_for(answer.json()["order"]["number"], status="paid")


def test_a_sale_from_the_shelf_to_the_refund(shop):
    product = shop.sell(10)
    placed = shop.check_out(product, 2).json()
    number = placed["order"]["number"]
    assert (placed["order"]["status"], placed["order"]["total"]) == ("pending", 3000)
    assert shop.shelf(product) == (10, 2)

    assert shop.confirm(placed["payment"]) == "succeeded"
    order = shop.wait_for(number, status="paid")
    assert [payment["status"] for payment in order["payments"]] == ["succeeded"]
    assert eventually(lambda: shop.shelf(product) == (8, 0))
    assert eventually(lambda: "sale" in shop.journal(number))
    assert shop.journal(number) == {"capture": 3000, "fee": 117, "sale": 3000}
    assert eventually(lambda: shop.mails(f"Your order {number}") == 1)

    payment = order["payments"][0]["number"]
    answer = shop.call("POST", f"/payments/{payment}/refunds", {"amount": 1234, "reason": "a torn page"})
    refund = answer.json()
    assert (answer.status_code, refund["amount"]) == (201, 1234)
    assert eventually(lambda: shop.get(f"/refunds/{refund['number']}")["status"] == "succeeded")
    assert shop.wait_for(number, refund_status="partial")["status"] == "paid"
    assert shop.shelf(product) == (8, 0)
    assert eventually(lambda: shop.journal(number).get("refund") == 1234)
    assert eventually(lambda: shop.mails("Your refund of $12.34") == 1)


def test_an_unpaid_order_expires(shop, quick_expiry):
    product = shop.sell(3)
    placed = shop.check_out(product).json()
    assert shop.shelf(product) == (3, 1)
    order = shop.wait_for(placed["order"]["number"], status="cancelled")
    assert [payment["status"] for payment in order["payments"]] == ["cancelled"]
    assert shop.intent(placed["payment"]["provider_reference"])["status"] == "canceled"
    assert shop.shelf(product) == (3, 0)
    assert shop.journal(order["number"]) == {}


def test_ten_posts_of_one_key_are_one_sale(shop):
    product = shop.sell(20)
    key = str(uuid4())
    body = {"customer": {"id": "in-a-hurry"}, "items": [{"product": product, "quantity": 1}]}
    with ThreadPoolExecutor(10) as pool:
        posts = [pool.submit(shop.call, "POST", "/checkout", body, key=key, scope="storefront") for _ in range(10)]
        answers = [post.result() for post in posts]
    # A twin may be told to come back; whoever is answered is answered with the same order.
    assert {answer.status_code for answer in answers} <= {201, 409}
    last = shop.call("POST", "/checkout", body, key=key, scope="storefront")
    assert last.status_code == 201
    placed = [answer.json() for answer in [*answers, last] if answer.status_code == 201]
    assert len({one["order"]["number"] for one in placed}) == len({one["payment"]["number"] for one in placed}) == 1
    assert shop.shelf(product) == (20, 1)
    assert shop.rows("SELECT count(*) FROM orders_order WHERE customer = 'in-a-hurry'") == [(1,)]
    shop.confirm(last.json()["payment"])
    shop.wait_for(placed[0]["order"]["number"], status="paid")


def test_ten_buyers_of_the_last_copy(shop):
    product = shop.sell(1)
    with ThreadPoolExecutor(10) as pool:
        answers = [post.result() for post in [pool.submit(shop.check_out, product) for _ in range(10)]]
    won = [answer.json() for answer in answers if answer.status_code == 201]
    lost = [answer.json() for answer in answers if answer.status_code == 409]
    assert (len(won), len(lost)) == (1, 9)
    assert {problem["code"] for problem in lost} == {"insufficient_stock"}
    assert lost[0]["errors"] == [{"product": product, "requested": 1, "available": 0}]
    shop.confirm(won[0]["payment"])
    shop.wait_for(won[0]["order"]["number"], status="paid")
    assert eventually(lambda: shop.shelf(product) == (0, 0))


@pytest.mark.parametrize("mode", ["duplicate", "shuffle"])
def test_webhooks_that_come_twice_or_in_any_order_change_nothing(shop, mode):
    product = shop.sell(5)
    shop.control("webhooks", mode=mode, copies=3)
    try:
        number = paid(shop, product)["number"]
        assert eventually(lambda: shop.webhooks_waiting() == 0)
    finally:
        shop.control("webhooks", mode="normal")
    assert eventually(lambda: shop.mails(f"Your order {number}") > 0)
    assert eventually(shop.is_at_rest)
    assert shop.journal(number) == {"capture": 1500, "fee": 74, "sale": 1500}
    assert shop.shelf(product) == (4, 0)
    assert shop.mails(f"Your order {number}") == 1


def test_reconciliation_finds_what_we_miss_and_a_clerk_closes_it(shop, another_day):
    product = shop.sell(10)
    order = paid(shop, product)
    refund = {"amount": 500, "reason": "a late delivery"}
    assert shop.call("POST", f"/payments/{order['payments'][0]['number']}/refunds", refund).status_code == 201
    shop.wait_for(order["number"], refund_status="partial")
    reconcile = ("reconcile", "--date", str(another_day), "--json")
    code, report = shop.manage(*reconcile)
    assert (code, report["runs"][0]["discrepancies"]) == (0, {})
    assert report["runs"][0]["provisional"] is False
    assert report["runs"][0]["ours"] == report["runs"][0]["theirs"] == {"count": 2, "totals": {"usd": 1000}}

    # The customer of an open order pays, and the provider never tells us.
    number = shop.check_out(product).json()["order"]["number"]
    planted = shop.control("plant", kind="missing_in_our_system", count=1)
    assert planted["objects"][0]["metadata"]["order"] == number
    code, report = shop.manage(*reconcile)
    assert code == 1
    counts = {"new": 1, "persisting": 0, "resolved": 0, "timing": 0}
    assert report["runs"][0]["discrepancies"] == {"missing_in_our_system": counts}

    shop.manage(
        "shell",
        "-c",
        "from reconciliation import selectors, services\n"
        f"(item,) = selectors.discrepancies_of({number!r})\n"
        "services.perform(discrepancy_id=item.id, action='create_missing_payment', by='clerk', note='has a receipt')",
    )
    order = shop.wait_for(number, status="paid")
    assert "succeeded" in [payment["status"] for payment in order["payments"]]
    assert eventually(lambda: shop.shelf(product) == (8, 0))
    code, report = shop.manage(*reconcile)
    assert code == 0
    assert report["runs"][0]["residual"] == {"usd": 0}
    assert shop.rows(
        "SELECT state, closed_as, resolved_by, verified_at IS NOT NULL FROM reconciliation_discrepancy"
        " WHERE order_reference = %s",
        number,
    ) == [("resolved", "fixed", "clerk", True)]
