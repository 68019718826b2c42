import contextlib
import threading
import time

import pytest
import requests
import stripe

from tests.sandbox.conftest import eventually

PAYMENT = {
    "amount": 2500,
    "currency": "usd",
    "payment_method": "pm_card_visa",
    "confirm": True,
    "return_url": "https://x",
}
FORM = {**PAYMENT, "confirm": "true"}
KEY = {"Idempotency-Key": "k1"}


def fault(shop, kind: str, times: int = 1, match: str = "POST /v1/payment_intents") -> None:
    shop.sandbox.control("POST", "faults", {"match": match, "kind": kind, "times": times})


@pytest.mark.parametrize(("kind", "charges"), [("error_500", 0), ("error_500_after", 1)])
def test_a_500_is_kept_and_replayed_with_or_without_its_effect(shop, kind, charges):
    fault(shop, kind)
    answers = [shop.http("POST", "/v1/payment_intents", FORM, **KEY) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [500, 500]
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    assert shop.sandbox.books()["charges"] == charges
    assert shop.http("POST", "/v1/payment_intents", FORM).status_code == 200
    with pytest.raises(stripe.APIError):
        shop.v1.payment_intents.create(PAYMENT, {"idempotency_key": "k1"})


@pytest.mark.parametrize(("kind", "charges"), [("timeout_before", 0), ("timeout_after", 1)])
def test_a_timeout_hides_whether_the_charge_was_made(shop, kind, charges):
    fault(shop, kind)
    with pytest.raises(requests.ReadTimeout):
        requests.post(
            f"{shop.sandbox.url}/v1/payment_intents",
            data=FORM,
            headers={"Authorization": "Bearer sk_test_sandbox", **KEY},
            timeout=(3, 0.3),
        )
    assert shop.sandbox.books()["charges"] == charges
    # The same key finds out.
    answer = shop.http("POST", "/v1/payment_intents", FORM, **KEY)
    assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (200, kind == "timeout_after")
    assert shop.sandbox.books()["charges"] == 1


def test_a_reset_connection_has_no_effect(shop):
    fault(shop, "reset")
    with pytest.raises(stripe.APIConnectionError):
        shop.v1.payment_intents.create(PAYMENT)
    assert shop.sandbox.books()["charges"] == 0


def test_faults_count_down_match_by_prefix_and_can_be_cleared(shop):
    fault(shop, "rate_limit", 2, "GET /v1/balance")
    assert shop.http("POST", "/v1/payment_intents", FORM).status_code == 200
    assert [shop.http("GET", "/v1/balance").status_code for _ in range(3)] == [429, 429, 200]
    fault(shop, "rate_limit", 100, "POST /v1/payment_intents/*/confirm")
    intent = shop.open()
    with pytest.raises(stripe.RateLimitError):
        shop.v1.payment_intents.confirm(intent.id, {"payment_method": "pm_card_visa"})
    assert shop.sandbox.control("GET", "faults")["faults"][0]["times"] == 99
    shop.sandbox.kill()
    shop.sandbox.restart()
    assert shop.sandbox.control("DELETE", "faults") == {"faults": []}
    assert shop.v1.payment_intents.confirm(intent.id, {"payment_method": "pm_card_visa"}).status == "succeeded"


def test_a_hanging_request_does_not_hold_up_others(shop):
    fault(shop, "timeout_after")
    hanging = threading.Thread(target=_post_and_forget, args=[shop], daemon=True)
    hanging.start()
    eventually(lambda: shop.sandbox.books()["charges"] == 1)
    begun = time.monotonic()
    shop.pay()
    assert time.monotonic() - begun < 2
    assert hanging.is_alive()


def _post_and_forget(shop) -> None:
    with contextlib.suppress(requests.RequestException, AssertionError):
        shop.http("POST", "/v1/payment_intents", FORM)


@pytest.mark.parametrize(
    ("call", "body", "names"),
    [
        ("faults", {"match": "POST /", "kind": "explode"}, "timeout_before"),
        ("faults", {"match": "", "kind": "reset"}, "POST /v1/payment_intents"),
        ("faults", {"match": "POST /", "kind": "reset", "times": 0}, "times"),
        ("webhooks", {"mode": "sometimes"}, "shuffle"),
        ("plant", {"kind": "chaos", "count": 1}, "amount_mismatch_refund"),
        ("plant", {"kind": "amount_mismatch", "count": 0}, "count"),
        ("clock", {"advance_s": 10**12}, "advance_s"),
        ("clock", {"advance_s": "5"}, "advance_s"),
        ("success_rate", {"percent": 101}, "percent"),
        ("authenticate", {"payment_intent": "pi_1", "outcome": "maybe"}, "succeed"),
        ("authenticate", {}, "payment_intent"),
    ],
)
def test_wrong_control_calls_are_told_what_is_allowed(shared_shop, call, body, names):
    answer = requests.post(f"{shared_shop.sandbox.url}/_sandbox/{call}", json=body, timeout=5)
    assert answer.status_code == 400
    assert names in answer.text


def test_unknown_control_calls_list_the_known_ones(shared_shop):
    answer = requests.post(f"{shared_shop.sandbox.url}/_sandbox/nothing", json={}, timeout=5)
    assert (answer.status_code, "POST /_sandbox/plant" in answer.json()["error"]["allowed"]) == (404, True)
    assert requests.post(f"{shared_shop.sandbox.url}/_sandbox/clock", data="[", timeout=5).status_code == 400
    nobody = requests.post(
        f"{shared_shop.sandbox.url}/_sandbox/authenticate",
        timeout=5,
        json={"payment_intent": "pi_x", "outcome": "fail"},
    )
    assert nobody.status_code == 404


def test_reset_forgets_objects_keys_settings_and_faults(shop):
    shop.http("POST", "/v1/payment_intents", FORM, **KEY)
    shop.sandbox.control("POST", "clock", {"advance_s": 1000})
    fault(shop, "rate_limit", 5)
    shop.sandbox.control("POST", "reset")
    assert shop.sandbox.control("GET", "clock")["advanced_s"] == 0
    assert shop.v1.events.list().data == []
    answer = shop.http("POST", "/v1/payment_intents", FORM, **KEY)
    assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (200, False)


def test_of_an_answer_that_is_cut_short_the_end_is_missing_and_the_same_key_finds_out(shop):
    fault(shop, "cut_short")
    with pytest.raises(stripe.APIError, match="Invalid response body"):
        shop.v1.payment_intents.create(PAYMENT, {"idempotency_key": "k1"})
    assert shop.sandbox.books()["charges"] == 1
    assert shop.v1.payment_intents.create(PAYMENT, {"idempotency_key": "k1"}).status == "succeeded"
    assert shop.sandbox.books()["charges"] == 1
