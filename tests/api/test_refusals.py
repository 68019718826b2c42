"""Every row of the contract's table of errors, provoked over HTTP; and after each refusal nothing has changed.

A refusal prepares, and returns the call that is then refused. Two rows are no refusals but news of what was done: 402 and
424. What they leave behind, and no more, is tested at the end.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test import Client
from rest_framework.test import APIClient

from catalog import services as catalog
from catalog.models import ApiKey
from foundation import throttle
from foundation.ids import public_id, uuid7
from inventory.models import Stock
from orders.models import Order
from payments.models import Payment
from tests.api.state import changed, state
from tests.credit import CARD, DECLINED, grant, with_credit
from tests.shop import Shop, open_shop, settle

Call = Callable[[], Any]

# api.md: status, code, and whether the answer says when to come back.
CONTRACT = {
    (400, "parameter_invalid", False),
    (400, "parameter_missing", False),
    (400, "idempotency_key_missing", False),
    (400, "product_not_found", False),
    (400, "currency_mixed", False),
    (400, "signature_invalid", False),
    (401, "key_invalid", False),
    (403, "scope_missing", False),
    (404, "not_found", False),
    (405, "method_not_allowed", False),
    (409, "product_exists", False),
    (409, "insufficient_stock", False),
    (409, "hold_exceeded", False),
    (409, "insufficient_store_credit", False),
    (409, "illegal_transition", False),
    (409, "payment_in_progress", False),
    (409, "payment_in_progress", True),
    (409, "order_already_paid", False),
    (409, "payment_not_refundable", False),
    (409, "refund_exceeds_captured", False),
    (409, "payment_disputed", False),
    (409, "refund_window_closed", False),
    (409, "idempotency_key_in_use", True),
    (415, "media_type", False),
    (422, "idempotency_key_reused", False),
    (429, "rate_limited", True),
    (500, "internal_error", False),
    (503, "provider_unavailable", True),
}
NEWS = {(402, "card_declined"), (424, "provider_error")}


@dataclass
class Case:
    """What a refusal may prepare with."""

    shop: Shop
    settings: Any
    monkeypatch: pytest.MonkeyPatch
    afterwards: ExitStack

    def attempt(self, order: str, wish: dict[str, Any] | None = None, *, key: str = "attempt") -> Any:
        path = f"/api/v1/orders/{order}/payments"
        return self.shop.storefront.post(
            path, wish or {"method": "card"}, format="json", headers={"Idempotency-Key": key}
        )

    def impatient(self, call: Call, *, limit: str) -> Call:
        """The call, on a connection to PostgreSQL that waits 50 ms: for a lock, or for a statement."""

        def limited() -> Any:
            _execute(f"SET {limit} = '50ms'")
            try:
                return call()
            finally:
                _execute(f"RESET {limit}")

        return limited

    def meanwhile(self, statement: str, *parameters: Any) -> None:
        """Another transaction, under way as long as the test lasts."""
        other = connection.copy()
        self.afterwards.callback(other.close)
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute(statement, parameters)


def _execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


@dataclass
class Refusal:
    status: int
    code: str
    param: str
    comes_back: bool
    prepare: Callable[[Case], Call]


REFUSALS: list[Refusal] = []


def refusal(
    status: int, code: str, *, param: str = "", comes_back: bool = False
) -> Callable[[Callable[[Case], Call]], Callable[[Case], Call]]:
    def register(prepare: Callable[[Case], Call]) -> Callable[[Case], Call]:
        REFUSALS.append(Refusal(status, code, param, comes_back, prepare))
        return prepare

    return register


# --- 400 ----------------------------------------------------------------------------------------------


@refusal(400, "parameter_invalid", param="items[0].quantity")
def a_quantity_of_none(case):
    return lambda: case.shop.checkout(quantity=0)


@refusal(400, "parameter_invalid", param="items[0].note")
def an_unknown_member_of_a_line(case):
    return lambda: case.shop.checkout(items=[{"product": "book", "quantity": 1, "note": "a gift"}])


@refusal(400, "parameter_invalid", param="items")
def a_cart_that_costs_nothing(case):
    case.shop.stock("free", 1, price=0)
    return lambda: case.shop.checkout("free")


@refusal(400, "parameter_invalid", param="payment.store_credit")
def more_store_credit_than_the_order_costs(case):
    grant(case.shop, 5000)
    return lambda: case.shop.checkout(payment=with_credit(1501))


@refusal(400, "parameter_invalid", param="reference")
def an_orders_stock_taken_by_hand(case):
    order = case.shop.checkout().json()["order"]["number"]
    return lambda: case.shop.post("/stock/book/release", {"quantity": 1, "reference": order})


@refusal(400, "parameter_invalid", param="isbn")
def a_wrong_check_digit(case):
    return lambda: case.shop.operations.patch("/api/v1/products/book", {"isbn": "9780439023482"}, format="json")


@refusal(400, "parameter_invalid", param="price")
def a_price_that_nobody_can_charge(case):
    body = {"title": "x", "author": "", "price": 150, "currency": "isk"}
    return lambda: case.shop.post("/products", body)


@refusal(400, "parameter_invalid", param="limit")
def a_page_of_a_thousand(case):
    return lambda: case.shop.storefront.get("/api/v1/orders?limit=1000")


@refusal(400, "parameter_missing", param="items[0].quantity")
def a_line_without_a_quantity(case):
    return lambda: case.shop.checkout(items=[{"product": "book"}])


@refusal(400, "parameter_missing", param="reason")
def a_refund_without_a_reason(case):
    payment = case.shop.bought()["payments"][0]["number"]
    return lambda: case.shop.post(f"/payments/{payment}/refunds", {"amount": 1})


@refusal(400, "parameter_missing", param="products")
def the_stock_of_nothing(case):
    return lambda: case.shop.storefront.get("/api/v1/stock")


@refusal(400, "idempotency_key_missing", param="Idempotency-Key")
def a_checkout_without_a_key(case):
    body = {"customer": {"id": "c"}, "items": [{"product": "book", "quantity": 1}]}
    return lambda: case.shop.storefront.post("/api/v1/checkout", body, format="json")


@refusal(400, "idempotency_key_missing", param="Idempotency-Key")
def a_key_that_is_too_long(case):
    return lambda: case.shop.checkout(key="k" * 256)


@refusal(400, "product_not_found", param="items[1].product")
def a_product_that_nobody_sells(case):
    return lambda: case.shop.checkout(items=[{"product": "book", "quantity": 1}, {"product": "bock", "quantity": 1}])


@refusal(400, "product_not_found", param="items[0].product")
def a_product_that_is_not_published(case):
    case.shop.stock("draft", 5)
    catalog.update_product(merchant_id=case.shop.merchant_id, product="draft", published=False)
    return lambda: case.shop.checkout("draft")


@refusal(400, "product_not_found", param="items[0].product")
def another_merchants_product(case):
    open_shop().stock("theirs", 5)
    return lambda: case.shop.checkout("theirs")


@refusal(400, "currency_mixed", param="items")
def two_currencies_in_one_cart(case):
    case.shop.stock("euro", 5, currency="eur")
    items = [{"product": "book", "quantity": 1}, {"product": "euro", "quantity": 1}]
    return lambda: case.shop.checkout(items=items)


@refusal(400, "signature_invalid")
def a_webhook_that_nobody_signed(case):
    return lambda: Client().post("/api/v1/webhooks/stripe", "{}", content_type="application/json")


# --- 401 to 405 ---------------------------------------------------------------------------------------


@refusal(401, "key_invalid")
def no_key_at_all(case):
    return lambda: APIClient().post("/api/v1/checkout", {}, format="json")


@refusal(401, "key_invalid")
def a_revoked_key(case):
    catalog.revoke_api_key(key_id=ApiKey.objects.get(name="storefront").pk)
    return case.shop.checkout


@refusal(401, "key_invalid")
def an_expired_key(case):
    ApiKey.objects.filter(name="storefront").update(expires_at=Now())
    return case.shop.checkout


@refusal(403, "scope_missing")
def a_storefront_that_restocks(case):
    return lambda: case.shop.storefront.post("/api/v1/stock/book/restock", {"quantity": 5}, format="json")


@refusal(403, "scope_missing")
def an_operator_that_checks_out(case):
    return lambda: case.shop.post("/checkout", {"customer": {"id": "c"}, "items": [{"product": "book", "quantity": 1}]})


@refusal(404, "not_found")
def an_order_that_nobody_placed(case):
    return lambda: case.shop.storefront.get(f"/api/v1/orders/{public_id('ord', uuid7())}")


@refusal(404, "not_found")
def a_number_that_is_none(case):
    return lambda: case.shop.post("/orders/%F0%9F%92%A5/ship")


@refusal(404, "not_found")
def another_merchants_payment(case):
    theirs = open_shop()
    theirs.stock("book", 1)
    payment = theirs.bought()["payments"][0]["number"]
    return lambda: case.shop.post(f"/payments/{payment}/refunds", {"reason": "mine now"})


@refusal(404, "not_found")
def an_address_that_nobody_serves(case):
    return lambda: case.shop.post("/checkouts", {})


@refusal(405, "method_not_allowed")
def a_product_that_is_deleted(case):
    return lambda: case.shop.operations.delete("/api/v1/products/book")


@refusal(405, "method_not_allowed")
def a_webhook_that_is_looked_at(case):
    return lambda: Client().get("/api/v1/webhooks/stripe")


# --- 409 ----------------------------------------------------------------------------------------------


@refusal(409, "product_exists", param="id")
def an_id_that_is_taken(case):
    body = {"id": "book", "title": "x", "author": "", "price": 1, "currency": "usd"}
    return lambda: case.shop.post("/products", body)


@refusal(409, "product_exists", param="isbn")
def an_isbn_that_is_taken(case):
    case.shop.stock("other", 0)
    catalog.update_product(merchant_id=case.shop.merchant_id, product="other", isbn="9780439023481")
    return lambda: case.shop.operations.patch("/api/v1/products/book", {"isbn": "0439023483"}, format="json")


@refusal(409, "insufficient_stock")
def more_than_there_is(case):
    case.shop.stock("rare", 1)
    items = [{"product": "book", "quantity": 10}, {"product": "rare", "quantity": 2}]
    return lambda: case.shop.checkout(items=items)


@refusal(409, "insufficient_stock")
def a_deduction_of_what_is_reserved(case):
    case.shop.checkout(quantity=10)
    return lambda: case.shop.post("/stock/book/deduct", {"quantity": 1, "reference": "counter"})


@refusal(409, "hold_exceeded", param="quantity")
def a_release_of_more_than_was_deducted(case):
    case.shop.post("/stock/book/deduct", {"quantity": 1, "reference": "counter"})
    return lambda: case.shop.post("/stock/book/release", {"quantity": 2, "reference": "counter"})


@refusal(409, "insufficient_store_credit", param="payment.store_credit")
def more_store_credit_than_there_is(case):
    grant(case.shop, 100)
    return lambda: case.shop.checkout(payment=with_credit(101))


@refusal(409, "illegal_transition")
def an_unpaid_order_that_is_shipped(case):
    order = case.shop.checkout().json()["order"]["number"]
    return lambda: case.shop.post(f"/orders/{order}/ship")


@refusal(409, "illegal_transition")
def an_order_that_is_completed_before_it_was_shipped(case):
    order = case.shop.bought()["number"]
    return lambda: case.shop.post(f"/orders/{order}/complete")


@refusal(409, "illegal_transition")
def a_paid_order_that_the_storefront_cancels(case):
    path = f"/api/v1/orders/{case.shop.bought()['number']}/cancel"
    return lambda: case.shop.storefront.post(path, {}, format="json", headers={"Idempotency-Key": "k"})


@refusal(409, "illegal_transition")
def a_payment_for_a_cancelled_order(case):
    order = case.shop.checkout().json()["order"]["number"]
    case.shop.post(f"/orders/{order}/cancel")
    return lambda: case.attempt(order)


@refusal(409, "payment_in_progress", comes_back=True)
def a_second_attempt_while_the_provider_works_on_the_first(case):
    order = case.shop.checkout().json()["order"]["number"]
    Payment.objects.update(status="processing")
    return lambda: case.attempt(order)


@refusal(409, "payment_in_progress")
def a_second_attempt_after_money_that_nobody_asked_for(case):
    order = case.shop.checkout(payment=DECLINED).json()["order"]["number"]
    Payment.objects.update(contradicted_at=Now(), contradiction="it took 3 cents", charge_reference="ch_3")
    return lambda: case.attempt(order)


@refusal(409, "order_already_paid")
def a_second_payment_for_a_paid_order(case):
    order = case.shop.bought()["number"]
    return lambda: case.attempt(order, CARD)


@refusal(409, "payment_not_refundable")
def a_refund_of_what_was_not_paid(case):
    payment = case.shop.checkout().json()["payment"]["number"]
    return lambda: case.shop.post(f"/payments/{payment}/refunds", {"reason": "changed my mind"})


@refusal(409, "refund_exceeds_captured", param="amount")
def a_refund_of_more_than_was_paid(case):
    payment = case.shop.bought()["payments"][0]["number"]
    return lambda: case.shop.post(f"/payments/{payment}/refunds", {"reason": "generous", "amount": 1501})


@refusal(409, "payment_disputed")
def a_refund_of_what_is_disputed(case):
    payment = case.shop.bought()["payments"][0]["number"]
    Payment.objects.update(disputed_at=Now())
    return lambda: case.shop.post(f"/payments/{payment}/refunds", {"reason": "twice"})


@refusal(409, "payment_disputed")
def a_disputed_order_that_is_cancelled(case):
    order = case.shop.bought()["number"]
    Payment.objects.update(disputed_at=Now())
    return lambda: case.shop.post(f"/orders/{order}/cancel")


@refusal(409, "refund_window_closed")
def a_refund_that_comes_too_late(case):
    shop = open_shop(refund_window_days=0)
    shop.stock("book", 1)
    payment = shop.bought()["payments"][0]["number"]
    return lambda: shop.post(f"/payments/{payment}/refunds", {"reason": "years ago"})


@refusal(409, "idempotency_key_in_use", comes_back=True)
def a_twin_that_has_not_ended(case):
    case.meanwhile(
        "INSERT INTO durability_idempotencykey (caller, key, method, path, body_hash, subject)"
        " VALUES (%s, 'one', 'POST', '/api/v1/checkout', '', '')",
        case.shop.merchant_id,
    )
    return case.impatient(lambda: case.shop.checkout(key="one"), limit="lock_timeout")


@refusal(409, "idempotency_key_in_use", comes_back=True)
def a_copy_that_another_buyer_is_about_to_take(case):
    case.meanwhile("SELECT 1 FROM inventory_stock WHERE product_id = %s FOR UPDATE", Stock.objects.get().pk)
    return case.impatient(case.shop.checkout, limit="lock_timeout")


# --- 415 and above ------------------------------------------------------------------------------------


@refusal(415, "media_type")
def a_form_instead_of_json(case):
    body = "customer=c&items=book"
    return lambda: case.shop.storefront.post(
        "/api/v1/checkout",
        body,
        content_type="application/x-www-form-urlencoded",
        headers={"Idempotency-Key": "k"},
    )


@refusal(422, "idempotency_key_reused", param="Idempotency-Key")
def a_key_with_another_body(case):
    case.shop.checkout(key="one")
    return lambda: case.shop.checkout(quantity=2, key="one")


@refusal(422, "idempotency_key_reused", param="Idempotency-Key")
def a_key_at_another_address(case):
    case.shop.post("/stock/book/restock", {"quantity": 1, "reference": "r"}, key="one")
    return lambda: case.shop.post("/stock/book/deduct", {"quantity": 1, "reference": "r"}, key="one")


@refusal(429, "rate_limited", comes_back=True)
def a_call_too_many(case):
    case.monkeypatch.setattr(throttle, "_resume_at", 0.0)
    case.settings.API_CALLS_PER_SECOND = 1

    def call_twice() -> Any:
        case.shop.storefront.get("/api/v1/stock?products=")
        return case.shop.checkout()

    return call_twice


@refusal(500, "internal_error")
def a_defect_of_ours(case):
    def broken(**_: Any) -> None:
        raise RuntimeError("the last line of checkout")

    case.monkeypatch.setattr("inventory.services.reservation_record", broken)
    key = catalog.issue_api_key(merchant_id=case.shop.merchant_id, name="x", scopes=["storefront"])
    # A client of its own: the document of the contract tells of no 500.
    client = APIClient(raise_request_exception=False, headers={"Authorization": f"Bearer {key}"})
    body = {"customer": {"id": "c"}, "items": [{"product": "book", "quantity": 1}]}
    return lambda: client.post("/api/v1/checkout", body, format="json", headers={"Idempotency-Key": "k"})


@refusal(503, "provider_unavailable", comes_back=True)
def a_secret_that_the_provider_does_not_tell(case):
    payment = case.shop.checkout().json()["payment"]["number"]
    case.settings.STRIPE_API_BASE = "http://127.0.0.1:9"
    return lambda: case.shop.storefront.get(f"/api/v1/payments/{payment}")


@refusal(503, "provider_unavailable", comes_back=True)
def a_database_that_does_not_answer_in_time(case):
    case.meanwhile("SELECT 1 FROM inventory_stock WHERE product_id = %s FOR UPDATE", Stock.objects.get().pk)
    return case.impatient(case.shop.checkout, limit="statement_timeout")


# --- All of them ------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", REFUSALS, ids=lambda one: f"{one.code}-{one.prepare.__name__}")
def test_a_refusal_says_what_is_wrong_and_changes_nothing(one, shop, settings, monkeypatch):
    with ExitStack() as afterwards:
        call = one.prepare(Case(shop, settings, monkeypatch, afterwards))
        before = state()
        answer = call()
        after = state()
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem.get("param", "")) == (one.status, one.code, one.param)
    assert changed(before, after) == []
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "instance", "request_id"} <= problem.keys()
    assert problem["status"] == one.status
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert ("Retry-After" in answer.headers) == one.comes_back
    if one.comes_back:
        assert int(answer.headers["Retry-After"]) >= 1


def test_every_row_of_the_table_is_provoked():
    assert {(one.status, one.code, one.comes_back) for one in REFUSALS} == CONTRACT


def test_a_shortage_names_every_line_that_is_short(shop):
    shop.stock("rare", 1)
    items = [
        {"product": "book", "quantity": 11},
        {"product": "rare", "quantity": 2},
        {"product": "rare", "quantity": 1},
    ]
    assert shop.checkout(items=items).json()["errors"] == [
        {"product": "book", "requested": 11, "available": 10},
        {"product": "rare", "requested": 3, "available": 1},
    ]


def test_the_refused_second_payment_names_the_one_that_paid(shop, settings, monkeypatch):
    order = shop.bought()
    answer = Case(shop, settings, monkeypatch, ExitStack()).attempt(order["number"])
    assert answer.json()["payment"] == order["payments"][0]["number"]


# --- What 402 and 424 leave behind ------------------------------------------------------------------


def told(answer: Any) -> dict[str, Any]:
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["code"]) in NEWS
    assert answer.headers["Content-Type"] == "application/problem+json"
    return problem


def test_a_declined_card_leaves_an_open_order_with_its_copy_and_its_answer(shop):
    problem = told(shop.checkout(payment=DECLINED, key="one"))
    assert (problem["order"]["status"], problem["payment"]["status"]) == ("pending", "failed")
    assert problem["decline_code"] == problem["payment"]["failure"]["decline_code"]
    assert (Order.objects.count(), Payment.objects.count(), shop.level()) == (1, 1, (10, 1))
    before = state()
    again = shop.checkout(payment=DECLINED, key="one")
    assert (again.json(), again.headers["Idempotent-Replayed"]) == (problem, "true")
    assert changed(before, state()) == []


def test_a_declined_attempt_leaves_the_order_as_it_was(shop, settings, monkeypatch):
    order = told(shop.checkout(payment=DECLINED))["order"]["number"]
    case = Case(shop, settings, monkeypatch, ExitStack())
    problem = told(case.attempt(order, DECLINED))
    assert [payment["status"] for payment in problem["order"]["payments"]] == ["failed", "failed"]
    assert (problem["order"]["status"], shop.level()) == ("pending", (10, 1))
    assert case.attempt(order, CARD, key=str(uuid4())).status_code == 201
    settle()
    assert shop.order(order)["status"] == "paid"


def test_a_payment_that_the_provider_refuses_leaves_a_cancelled_order_and_no_reservation(shop):
    nobodys = {**CARD, "payment_method": "pm_card_nobodys"}
    problem = told(shop.checkout(payment=nobodys, key="one"))
    assert (problem["order"]["status"], problem["payment"]["status"]) == ("cancelled", "failed")
    assert (Order.objects.count(), Payment.objects.count(), shop.level()) == (1, 1, (10, 0))
    before = state()
    again = shop.checkout(payment=nobodys, key="one")
    assert (again.json(), again.headers["Idempotent-Replayed"]) == (problem, "true")
    assert changed(before, state()) == []


def test_a_cancellation_that_the_provider_does_not_answer_is_under_way_and_the_same_key_goes_on_with_it(shop, settings):
    """No refusal either: nobody can pay or ship the order from here on, and it ends when the provider answers."""
    order = shop.checkout().json()["order"]["number"]
    base, settings.STRIPE_API_BASE = settings.STRIPE_API_BASE, "http://127.0.0.1:9"
    answer = shop.post(f"/orders/{order}/cancel", key="one")
    assert (answer.status_code, answer.json()["code"]) == (503, "provider_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert (shop.order(order)["status"], shop.level()) == ("pending", (10, 1))
    settings.STRIPE_API_BASE = base
    settle()
    again = shop.post(f"/orders/{order}/cancel", key="one")
    assert (again.status_code, again.json()["status"], shop.level()) == (200, "cancelled", (10, 0))
