import concurrent.futures
from typing import Any

import pytest
import stripe

from tests.sandbox.conftest import CARD_ONLY, error_of

PAYMENT = {
    "amount": 2500,
    "currency": "usd",
    "payment_method": "pm_card_visa",
    "confirm": True,
    "return_url": "https://x",
}
FORM = {**PAYMENT, "confirm": "true"}


def test_the_same_key_replays_the_first_answer(shop):
    first = shop.http("POST", "/v1/payment_intents", FORM, **{"Idempotency-Key": "k1"})
    # The order of parameters does not matter.
    again = shop.http("POST", "/v1/payment_intents", dict(reversed(FORM.items())), **{"Idempotency-Key": "k1"})

    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Original-Request"] == first.headers["Request-Id"] != again.headers["Request-Id"]
    assert (again.status_code, again.content) == (200, first.content)
    books = shop.sandbox.books()
    assert (books["charges"], books["idempotent_replays"]) == (1, 1)


def test_without_a_key_each_request_is_its_own(shop):
    assert shop.v1.payment_intents.create(PAYMENT).id != shop.v1.payment_intents.create(PAYMENT).id
    assert shop.sandbox.books()["charges"] == 2


def test_other_parameters_or_another_endpoint_under_the_same_key_are_refused(shop):
    options = {"idempotency_key": "k1"}
    intent = shop.v1.payment_intents.create(PAYMENT, options)
    for resource, params in (
        (shop.v1.payment_intents, {**PAYMENT, "amount": 2600}),
        (shop.v1.refunds, {"payment_intent": intent.id}),
    ):
        with pytest.raises(stripe.IdempotencyError) as refusal:
            resource.create(params, options)
        assert refusal.value.http_status == 400
    assert shop.sandbox.books()["refunded"] == {}
    assert shop.v1.payment_intents.create(PAYMENT, options).id == intent.id


def test_declines_and_refusals_of_state_are_kept(shop):
    declined = {**PAYMENT, "payment_method": "pm_card_chargeDeclined"}
    bodies = set()
    for _ in range(2):
        with pytest.raises(stripe.CardError) as decline:
            shop.v1.payment_intents.create(declined, {"idempotency_key": "k1"})
        bodies.add(decline.value.http_body)
    assert len(bodies) == 1
    assert shop.event_types().count("charge.failed") == 1

    intent = shop.v1.payment_intents.create({"amount": 100, "currency": "usd"})
    for _ in range(2):
        with pytest.raises(stripe.InvalidRequestError):
            shop.v1.refunds.create({"payment_intent": intent.id}, {"idempotency_key": "k2"})
        # Paid in between: the kept refusal stands.
        shop.v1.payment_intents.confirm(
            intent.id, {"payment_method": "pm_card_visa", "return_url": "https://x"}, {"idempotency_key": "k3"}
        )


def test_validation_errors_wrong_keys_and_rate_limits_leave_the_key_free(shop):
    headers = {"Idempotency-Key": "k1"}
    assert shop.http("POST", "/v1/payment_intents", {"amount": 100}, **headers).status_code == 400
    assert shop.http("POST", "/v1/payment_intents", FORM, key="sk_test_wrong", **headers).status_code == 401
    shop.sandbox.control("POST", "faults", {"match": "POST /v1/payment_intents", "kind": "rate_limit"})
    assert shop.http("POST", "/v1/payment_intents", FORM, **headers).status_code == 429
    assert shop.http("POST", "/v1/payment_intents", FORM, **headers).status_code == 200


def test_ten_at_once_under_one_key_are_one_payment(shop):
    def post(_number: int) -> Any:
        return shop.http("POST", "/v1/payment_intents", FORM, **{"Idempotency-Key": "k1"}).status_code

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(post, range(10)))

    assert set(statuses) <= {200, 409}
    assert 200 in statuses
    assert shop.sandbox.books()["charges"] == 1


def test_a_key_in_use_is_409(shop):
    shop.sandbox.control("POST", "faults", {"match": "POST /v1/payment_intents", "kind": "slow"})
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        slow = pool.submit(shop.v1.payment_intents.create, PAYMENT, {"idempotency_key": "k1"})
        while not shop.v1.payment_intents.list().data:
            pass  # until the slow one is executing
        with pytest.raises(stripe.StripeError) as refusal:
            shop.v1.payment_intents.create(PAYMENT, {"idempotency_key": "k1"})
        assert (refusal.value.http_status, error_of(refusal).code) == (409, "idempotency_key_in_use")
        intent = slow.result()
    assert shop.v1.payment_intents.create(PAYMENT, {"idempotency_key": "k1"}).id == intent.id


def test_answers_and_effects_survive_a_kill_together(shop):
    params = {"amount": 700, "currency": "usd", "automatic_payment_methods": CARD_ONLY}
    intent = shop.v1.payment_intents.create(params, {"idempotency_key": "k1"})
    shop.sandbox.kill()
    shop.sandbox.restart()
    assert shop.v1.payment_intents.create(params, {"idempotency_key": "k1"}).id == intent.id
    assert len(shop.v1.payment_intents.list().data) == 1


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_key_has_1_to_255_characters(shared_shop, key):
    assert shared_shop.http("POST", "/v1/payment_intents", FORM, **{"Idempotency-Key": key}).status_code == 400
