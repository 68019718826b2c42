"""The documents of the contract: their members, in the forms that it promises."""

import re
from typing import Any

import pytest

from tests.credit import CARD, DECLINED, grant, with_credit
from tests.shop import settle

# Beside a product's, order's, payment's and refund's members stand those that we add, and that some have.
PRODUCT = {"id", "isbn", "title", "author", "price", "currency", "description", "image_url", "metadata", "published"}
STOCK = {"product", "on_hand", "reserved", "available"}
ORDER = {
    "number", "status", "refund_status", "customer", "currency", "total", "items", "expires_at", "created_at", "paid_at",
    "payments",
}  # fmt: skip
ITEM = {"product", "title", "quantity", "unit_price", "amount"}
PAYMENT = {
    "number", "order", "status", "amount", "currency", "amount_refunded", "method", "provider_reference", "created_at",
    "paid_at",
}  # fmt: skip
REFUND = {
    "number", "payment", "status", "amount", "currency", "reason", "requested_by", "provider_reference", "created_at",
    "completed_at",
}  # fmt: skip
FAILURE = {"code", "decline_code", "message"}

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_NUMBER = re.compile(r"(ord|pay|ref)_[0-9a-z]{26}")


def check(document: dict[str, Any], members: set[str]) -> None:
    """Its members are there; moments are RFC 3339 in UTC, amounts integers, numbers prefixed and opaque."""
    assert members <= document.keys()
    for name, value in document.items():
        if name.endswith("_at"):
            assert value is None or _MOMENT.fullmatch(value), (name, value)
        if name in (
            "price",
            "total",
            "amount",
            "amount_refunded",
            "unit_price",
            "quantity",
            "on_hand",
            "reserved",
            "available",
        ):
            assert type(value) is int, (name, value)
        if name in ("number", "order", "payment"):
            assert _NUMBER.fullmatch(value), (name, value)
        if name == "currency":
            assert re.fullmatch("[a-z]{3}", value)


@pytest.fixture
def sold(shop) -> dict[str, Any]:
    order: dict[str, Any] = shop.bought(quantity=2)
    return order


def test_goods(shop):
    found = shop.storefront.get("/api/v1/products/book").json()
    check(found, PRODUCT)
    assert found.keys() - PRODUCT == {"created_at"}
    level = shop.storefront.get("/api/v1/stock/book").json()
    check(level, STOCK)
    assert level.keys() == STOCK


def test_an_order_with_its_items_and_payments(shop, sold):
    check(sold, ORDER)
    assert (sold["status"], sold["refund_status"], sold["total"]) == ("paid", "none", 3000)
    assert sold["customer"] == {"id": "cust-1", "email": "reader@example.com", "phone": None}
    (item,) = sold["items"]
    check(item, ITEM)
    assert item["amount"] == item["quantity"] * item["unit_price"] == 3000
    (payment,) = sold["payments"]
    check(payment, PAYMENT)
    assert (payment["order"], payment["status"], payment["amount"]) == (sold["number"], "succeeded", 3000)
    assert payment == shop.storefront.get(f"/api/v1/payments/{payment['number']}").json()
    assert sold in shop.storefront.get("/api/v1/orders").json()["data"]


def test_a_secret_is_told_where_it_is_of_use_and_nowhere_else(shop):
    placed = shop.checkout(key="one")
    payment = placed.json()["payment"]
    check(payment, PAYMENT)
    secret = payment["client_secret"]
    assert shop.checkout(key="one").json()["payment"]["client_secret"] == secret
    assert shop.storefront.get(f"/api/v1/payments/{payment['number']}").json()["client_secret"] == secret
    number = placed.json()["order"]["number"]
    assert "client_secret" not in str(shop.order(number)) + str(shop.storefront.get("/api/v1/orders").json())
    shop.post(f"/orders/{number}/cancel")
    assert "client_secret" not in shop.storefront.get(f"/api/v1/payments/{payment['number']}").json()


def test_a_decline_has_its_reason_in_the_problem_and_in_the_payment(shop):
    problem = shop.checkout(payment=DECLINED).json()
    assert {"order", "payment", "decline_code"} <= problem.keys()
    check(problem["payment"], PAYMENT)
    assert problem["payment"]["failure"].keys() == FAILURE
    assert problem["payment"]["paid_at"] is None


def test_a_refund(shop, sold):
    payment = sold["payments"][0]["number"]
    asked = shop.post(f"/payments/{payment}/refunds", {"reason": "a torn page", "amount": 1000})
    assert asked.status_code == 201
    check(asked.json(), REFUND)
    settle()
    refund = shop.storefront.get(f"/api/v1/refunds/{asked.json()['number']}").json()
    check(refund, REFUND)
    assert (refund["status"], refund["amount"], refund["payment"]) == ("succeeded", 1000, payment)
    assert shop.order(sold["number"])["refund_status"] == "partial"
    assert shop.storefront.get(f"/api/v1/payments/{payment}").json()["amount_refunded"] == 1000


def test_an_order_from_the_shelf_to_its_end(shop, sold):
    shipped = shop.post(f"/orders/{sold['number']}/ship", {"carrier": "Post", "tracking": "99"})
    done = shop.post(f"/orders/{sold['number']}/complete")
    assert [(one.status_code, one.json()["status"]) for one in (shipped, done)] == [
        (200, "shipped"),
        (200, "completed"),
    ]
    check(done.json(), ORDER)


def test_who_does_not_want_to_wait_polls_the_payment(shop):
    answer = shop.checkout(headers={"Prefer": "respond-async"})
    payment = answer.json()["payment"]
    assert (answer.status_code, payment["status"], payment["provider_reference"]) == (201, "pending", None)
    assert "client_secret" not in payment
    settle()
    assert shop.storefront.get(f"/api/v1/payments/{payment['number']}").json()["client_secret"]


def test_store_credit_is_a_part_of_the_payment(shop):
    grant(shop, 500)
    payment = shop.checkout(payment=with_credit(500, CARD)).json()["payment"]
    check(payment, PAYMENT)
    assert payment["store_credit"] == 500
