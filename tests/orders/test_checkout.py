"""Checkout over HTTP, against the provider's sandbox: one sale a key, whatever happens on the way."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from django.db import connections

from durability.models import IdempotencyKey, SagaRun
from orders.models import Order
from payments import gateway
from payments import services as payments
from payments.models import JournalEntry, Payment
from tests.shop import settle

CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}


def at_once(calls):
    """Run calls concurrently, each with a database connection of its own."""

    def call(one):
        try:
            return one()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


def test_a_checkout_reserves_stock_and_opens_a_payment(shop):
    answer = shop.checkout(quantity=2)
    assert answer.status_code == 201
    body = answer.json()
    assert body["order"]["status"] == "pending"
    assert body["order"]["total"] == 3000
    assert body["order"]["items"] == [
        {"product": "book", "title": "The book of book", "quantity": 2, "unit_price": 1500, "amount": 3000}
    ]
    assert body["payment"]["status"] == "pending"
    assert body["payment"]["client_secret"].startswith(body["payment"]["provider_reference"])
    assert shop.level() == (10, 2)


def test_prices_add_up_as_in_the_example(shop):
    shop.stock("dear", 5, price=12800)
    shop.stock("cheap", 5, price=100)
    answer = shop.storefront.post(
        "/api/v1/checkout",
        {"customer": {"id": "c"}, "items": [{"product": "dear", "quantity": 2}, {"product": "cheap", "quantity": 1}]},
        format="json",
        headers={"Idempotency-Key": "example"},
    )
    assert answer.json()["order"]["total"] == 25700


def test_a_confirmed_checkout_becomes_a_paid_order_with_stock_and_books(shop, mailoutbox):
    order = shop.bought(quantity=2)
    assert order["status"] == "paid"
    assert order["payments"][0]["status"] == "succeeded"
    assert shop.level() == (8, 0)
    kinds = JournalEntry.objects.filter(reference=order["number"]).values_list("kind", flat=True)
    assert sorted(kinds) == ["capture", "fee", "sale"]
    assert [mail.to for mail in mailoutbox] == [["reader@example.com"]]
    assert "The book of book" in mailoutbox[0].body


def test_the_same_key_gives_the_same_answer(shop):
    first = shop.checkout(key="one")
    again = shop.checkout(key="one")
    assert again.json() == first.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert Order.objects.count() == 1


def test_a_stored_answer_holds_no_client_secret(shop):
    secret = shop.checkout(key="one").json()["payment"]["client_secret"]
    stored = str(IdempotencyKey.objects.get().body)
    assert secret not in stored
    assert "client_secret" not in stored


def test_ten_concurrent_posts_of_one_key_are_one_sale(shop):
    answers = at_once([lambda: shop.checkout(key="one")] * 10)
    assert {answer.status_code for answer in answers} <= {201, 409}
    numbers = {answer.json()["order"]["number"] for answer in answers if answer.status_code == 201}
    assert len(numbers) == 1
    assert {a.json()["code"] for a in answers if a.status_code == 409} <= {"idempotency_key_in_use"}
    assert Order.objects.count() == Payment.objects.count() == 1
    assert shop.level() == (10, 1)
    assert shop.checkout(key="one").json()["order"]["number"] in numbers


def test_without_a_key_it_is_refused(shop):
    answer = shop.storefront.post("/api/v1/checkout", {"customer": {"id": "c"}, "items": []}, format="json")
    answer = shop.storefront.post(
        "/api/v1/checkout", {"customer": {"id": "c"}, "items": [{"product": "book", "quantity": 1}]}, format="json"
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_missing")
    assert not Order.objects.exists()


def test_a_key_with_another_body_is_refused(shop):
    shop.checkout(key="one")
    answer = shop.checkout(quantity=2, key="one")
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_ten_buyers_of_the_last_copy_are_one_order(shop):
    shop.stock("last", 1)
    answers = at_once([lambda: shop.checkout("last")] * 10)
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 9
    refused = [answer.json() for answer in answers if answer.status_code == 409]
    assert {problem["code"] for problem in refused} == {"insufficient_stock"}
    assert refused[0]["errors"] == [{"product": "last", "requested": 1, "available": 0}]
    assert shop.level("last") == (1, 1)


def test_a_refused_checkout_leaves_nothing_and_consumes_no_key(shop):
    assert shop.checkout(quantity=11, key="one").status_code == 409
    assert not Order.objects.exists()
    assert not Payment.objects.exists()
    assert not IdempotencyKey.objects.exists()
    assert shop.checkout(quantity=1, key="one").status_code == 201


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"items": [{"product": "none", "quantity": 1}]}, "product_not_found", "items[0].product"),
        ({"items": [{"product": "book", "quantity": 0}]}, "parameter_invalid", "items[0].quantity"),
        ({"items": [{"product": "book", "quantity": "2"}]}, "parameter_invalid", "items[0].quantity"),
        ({"items": []}, "parameter_invalid", "items"),
        ({"items": [{"product": "book"}]}, "parameter_missing", "items[0].quantity"),
        ({"surprise": 1}, "parameter_invalid", "surprise"),
        ({"payment": {"method": "cash"}}, "parameter_invalid", "payment.method"),
        ({"payment": {"method": "card", "confirm": True}}, "parameter_missing", "payment.payment_method"),
        ({"customer": {}}, "parameter_missing", "customer.id"),
    ],
)
def test_bad_input_names_the_parameter_and_changes_nothing(shop, body, code, param):
    answer = shop.checkout(key="one", **body)
    assert (answer.status_code, answer.json()["code"], answer.json().get("param")) == (400, code, param)
    assert not Order.objects.exists()
    assert not IdempotencyKey.objects.exists()


def test_two_currencies_in_one_cart_are_refused(shop):
    shop.stock("euro", 5, currency="eur")
    items = [{"product": "book", "quantity": 1}, {"product": "euro", "quantity": 1}]
    answer = shop.checkout(items=items)
    assert (answer.status_code, answer.json()["code"]) == (400, "currency_mixed")


def test_a_declined_confirmation_answers_402_and_keeps_the_order_for_another_attempt(shop):
    declined = {**CONFIRMED, "payment_method": "pm_card_chargeDeclinedInsufficientFunds"}
    answer = shop.checkout(payment=declined, key="one")
    body = answer.json()
    assert (answer.status_code, body["code"]) == (402, "card_declined")
    assert body["decline_code"] == "insufficient_funds"
    assert body["payment"]["status"] == "failed"
    assert body["order"]["status"] == "pending"
    assert gateway.retrieve_intent(body["payment"]["provider_reference"]).status == "canceled"
    assert shop.level() == (10, 1)
    replay = shop.checkout(payment=declined, key="one")
    assert (replay.status_code, replay.json()) == (402, body)

    number = body["order"]["number"]
    again = shop.storefront.post(
        f"/api/v1/orders/{number}/payments", CONFIRMED, format="json", headers={"Idempotency-Key": "two"}
    )
    assert (again.status_code, again.json()["status"]) == (201, "succeeded")
    settle()
    assert shop.order(number)["status"] == "paid"


def test_a_decline_that_a_webhook_tells_of_first_is_a_decline_all_the_same(shop, monkeypatch):
    cancel = gateway.cancel_intent

    def cancel_and_hear_of_it(reference):
        """The webhook of the cancellation is handled by a worker before this request has stored its own answer."""
        cancelled = cancel(reference)
        payments.sync_payment(reference, by="webhook")
        return cancelled

    monkeypatch.setattr(gateway, "cancel_intent", cancel_and_hear_of_it)
    answer = shop.checkout(payment={**CONFIRMED, "payment_method": "pm_card_chargeDeclined"})
    assert (answer.status_code, answer.json()["code"]) == (402, "card_declined")
    assert answer.json()["payment"]["status"] == "failed"


def test_three_d_secure_ends_in_a_paid_order(shop, sandbox):
    answer = shop.checkout(payment={**CONFIRMED, "payment_method": "pm_card_authenticationRequired"})
    payment = answer.json()["payment"]
    assert payment["status"] == "requires_action"
    assert payment["client_secret"]
    sandbox.control("POST", "authenticate", {"payment_intent": payment["provider_reference"], "outcome": "succeed"})
    settle()
    assert shop.order(answer.json()["order"]["number"])["status"] == "paid"


@pytest.mark.guard(1)
def test_a_provider_that_does_not_answer_leaves_a_pending_order_that_a_worker_finishes(shop, settings):
    base, settings.STRIPE_API_BASE = settings.STRIPE_API_BASE, "http://127.0.0.1:9"
    answer = shop.checkout(payment=CONFIRMED, key="one")
    assert answer.status_code == 201
    assert answer.json()["payment"]["status"] == "processing"
    settings.STRIPE_API_BASE = base
    settle()
    order = shop.order(answer.json()["order"]["number"])
    assert order["status"] == "paid"
    assert len(order["payments"]) == 1


def test_respond_async_leaves_the_opening_to_a_worker(shop):
    answer = shop.checkout(headers={"Prefer": "respond-async"})
    payment = answer.json()["payment"]
    assert (answer.status_code, payment["status"], payment["provider_reference"]) == (201, "pending", None)
    settle()
    opened = shop.storefront.get(f"/api/v1/payments/{payment['number']}").json()
    assert opened["client_secret"].startswith(opened["provider_reference"])


def test_a_provider_that_refuses_undoes_the_checkout(shop, settings):
    settings.INSTANCE_ID = "x" * 600  # longer than metadata may be: refused for good
    answer = shop.checkout(key="one")
    assert (answer.status_code, answer.json()["code"]) == (424, "provider_error")
    assert answer.json()["order"]["status"] == "cancelled"
    assert answer.json()["payment"]["status"] == "failed"
    assert shop.level() == (10, 0)
    assert shop.checkout(key="one").status_code == 424


def test_a_client_that_died_after_sending_continues_the_same_checkout(shop, settings):
    answer = shop.checkout(key="one")
    IdempotencyKey.objects.update(status=None, body=None)  # the process died before it could store its answer
    again = shop.checkout(key="one")
    assert again.status_code == 201
    assert again.json()["order"]["number"] == answer.json()["order"]["number"]
    assert Order.objects.count() == Payment.objects.count() == 1


def test_a_process_that_died_before_calling_is_taken_over(shop):
    key = str(uuid4())
    shop.checkout(key=key, headers={"Prefer": "respond-async"})  # the state right after the first commit
    assert SagaRun.objects.get(recipe="orders.checkout").state == "running"
    settle()
    assert SagaRun.objects.get(recipe="orders.checkout").state == "completed"
    assert Payment.objects.get().provider_reference


def test_another_merchants_order_is_not_found(shop):
    from tests.shop import open_shop

    number = shop.checkout().json()["order"]["number"]
    answer = open_shop().storefront.get(f"/api/v1/orders/{number}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.guard(1)
def test_while_the_outcome_is_unknown_a_retry_answers_with_what_became_of_it(shop, sandbox):
    sandbox.control("POST", "faults", {"match": "POST /v1/payment_intents", "kind": "error_500_after", "times": 1})
    first = shop.checkout(key="one")
    assert (first.status_code, first.json()["payment"]["status"]) == (201, "processing")
    settle()
    again = shop.checkout(key="one")
    assert again.json()["order"]["number"] == first.json()["order"]["number"]
    assert again.json()["payment"]["status"] == "pending"
    assert again.json()["payment"]["client_secret"]


def test_of_concurrent_new_attempts_one_is_made_and_the_others_are_told(shop):
    declined = {**CONFIRMED, "payment_method": "pm_card_chargeDeclined"}
    number = shop.checkout(payment=declined).json()["order"]["number"]

    def attempt(key: str):
        return lambda: shop.storefront.post(
            f"/api/v1/orders/{number}/payments", {"method": "card"}, format="json", headers={"Idempotency-Key": key}
        )

    first = at_once([attempt(key) for key in "abcd"])
    again = [attempt(key)() for key in "abcd"]
    made = {answer.json()["number"] for answer in [*first, *again] if answer.status_code == 201}
    live = [one for one in shop.order(number)["payments"] if one["status"] == "pending"]
    assert len(live) == 1
    assert live[0]["number"] in made
    assert {a.json()["code"] for a in again if a.status_code == 409} <= {"payment_in_progress"}


@pytest.mark.parametrize("path", ["/orders?customer=%00", "/products/%00", "/stock/a%00b"])
def test_a_nul_in_an_address_is_refused(shop, path):
    answer = shop.storefront.get(f"/api/v1{path}")
    assert (answer.status_code, answer.json()["code"]) == (400, "parameter_invalid")


def test_a_method_that_nobody_serves_is_405(shop):
    answer = shop.storefront.delete("/api/v1/orders/x")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
