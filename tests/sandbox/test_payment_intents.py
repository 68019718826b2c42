import pytest
import stripe

from tests.sandbox.conftest import CARD_ONLY, ORDER, client_of, error_of, eventually
from tests.sandbox_process import PUBLISHABLE_KEY


def test_a_confirmed_intent_is_charged_once_and_tells_its_events(shop):
    intent = shop.open()
    assert (intent.status, intent.amount_received, intent.latest_charge) == ("requires_payment_method", 0, None)

    confirmed = shop.v1.payment_intents.confirm(
        intent.id, {"payment_method": "pm_card_visa", "expand": ["latest_charge.balance_transaction"]}
    )

    assert (confirmed.status, confirmed.amount_received) == ("succeeded", 2500)
    charge = confirmed.latest_charge
    assert (charge.status, charge.paid, charge.captured, charge.payment_intent) == ("succeeded", True, True, intent.id)
    assert charge.metadata.to_dict() == ORDER
    assert charge.balance_transaction.source == charge.id
    assert shop.event_types() == ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded"]
    with pytest.raises(stripe.InvalidRequestError, match="already succeeded") as refusal:
        shop.v1.payment_intents.confirm(intent.id, {"payment_method": "pm_card_visa"})
    assert refusal.value.code == "payment_intent_unexpected_state"
    assert shop.sandbox.books()["charges"] == 1


def test_the_browser_confirms_with_the_publishable_key_and_the_client_secret(shared_shop):
    shop = shared_shop
    intent = shop.open()
    path = f"/v1/payment_intents/{intent.id}/confirm"
    card = {"payment_method_data[type]": "card", "payment_method_data[card][number]": "4242 4242 4242 4242"}

    without = shop.http("POST", path, card, key=PUBLISHABLE_KEY)
    assert (without.status_code, without.json()["error"]["code"]) == (400, "parameter_missing")
    wrong = shop.http("POST", path, {**card, "client_secret": intent.client_secret + "x"}, key=PUBLISHABLE_KEY)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "client_secret")
    # Stripe.js sends its key among the parameters.
    right = shop.http("POST", path, {**card, "client_secret": intent.client_secret, "key": PUBLISHABLE_KEY}, key=None)

    assert (right.status_code, right.json()["status"]) == (200, "succeeded")
    assert "metadata" not in right.json()
    browser = client_of(shop.sandbox, PUBLISHABLE_KEY)
    shown = browser.v1.payment_intents.retrieve(intent.id, {"client_secret": intent.client_secret})
    assert shown.status == "succeeded"


def test_the_publishable_key_opens_nothing_else(shared_shop):
    browser = client_of(shared_shop.sandbox, PUBLISHABLE_KEY)
    for call in (
        browser.v1.payment_intents.list,
        lambda: browser.v1.payment_intents.create({"amount": 100, "currency": "usd"}),
        browser.v1.balance.retrieve,
        browser.v1.events.list,
    ):
        with pytest.raises(stripe.AuthenticationError) as refusal:
            call()
        assert error_of(refusal).code == "secret_key_required"


@pytest.mark.parametrize("key", ["sk_test_other", ""])
def test_a_wrong_key_is_refused(shared_shop, key):
    answer = shared_shop.http("GET", "/v1/balance", key=key)
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "invalid_request_error")
    assert answer.headers["Request-Id"].startswith("req_")
    assert shared_shop.http("GET", "/v1/balance", key=None).status_code == 401


def test_basic_authentication_works_as_with_curl(shared_shop):
    answer = shared_shop.http("GET", "/v1/balance", key=None, Authorization="Basic c2tfdGVzdF9zYW5kYm94Og==")
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("card", "code", "decline_code"),
    [
        ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_chargeDeclinedLostCard", "card_declined", "lost_card"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card"),
        ("pm_card_chargeDeclinedIncorrectCvc", "incorrect_cvc", "incorrect_cvc"),
    ],
)
def test_a_declined_intent_can_be_confirmed_again(shared_shop, card, code, decline_code):
    shop = shared_shop
    intent = shop.open()
    with pytest.raises(stripe.CardError) as decline:
        shop.v1.payment_intents.confirm(intent.id, {"payment_method": card})

    assert decline.value.http_status == 402
    assert (decline.value.code, error_of(decline).decline_code) == (code, decline_code)
    assert error_of(decline).payment_intent.id == intent.id
    again = shop.v1.payment_intents.retrieve(intent.id, {"expand": ["latest_charge"]})
    assert (again.status, again.payment_method) == ("requires_payment_method", None)
    assert again.last_payment_error.decline_code == decline_code
    assert (again.latest_charge.status, again.latest_charge.balance_transaction) == ("failed", None)
    assert shop.v1.payment_intents.confirm(intent.id, {"payment_method": "pm_card_mastercard"}).status == "succeeded"


def test_a_decline_tells_its_events(shop):
    with pytest.raises(stripe.CardError):
        shop.pay(card="pm_card_chargeDeclined")
    assert shop.event_types() == ["payment_intent.created", "charge.failed", "payment_intent.payment_failed"]
    assert shop.sandbox.books()["charges"] == 0


@pytest.mark.parametrize(
    ("number", "outcome"),
    [
        ("4242424242424242", "succeeded"),
        ("378282246310005", "succeeded"),
        ("4000000000000002", "generic_decline"),
        ("4000000000009995", "insufficient_funds"),
        ("4000002760003184", "requires_action"),
        ("4242424242424241", "incorrect_number"),
        ("4111111111111111", "test_mode_live_card"),
    ],
)
def test_raw_card_numbers_do_what_stripes_test_numbers_do(shared_shop, number, outcome):
    data = {"type": "card", "card": {"number": number, "exp_month": 12, "exp_year": 2031, "cvc": "123"}}
    intent = shared_shop.open()
    try:
        answer = shared_shop.v1.payment_intents.confirm(intent.id, {"payment_method_data": data}).status
    except stripe.CardError as decline:
        answer = getattr(decline.error, "decline_code", None) or decline.code
    assert answer == outcome


def test_three_d_secure_waits_for_the_customer(shop):
    intent = shop.pay(card="pm_card_authenticationRequired")
    assert (intent.status, intent.next_action.type) == ("requires_action", "use_stripe_sdk")
    assert shop.event_types()[-1] == "payment_intent.requires_action"

    done = shop.sandbox.control("POST", "authenticate", {"payment_intent": intent.id, "outcome": "succeed"})

    assert done == {"payment_intent": intent.id, "status": "succeeded"}
    assert shop.event_types()[-2:] == ["charge.succeeded", "payment_intent.succeeded"]


def test_failed_authentication_charges_nothing_and_leaves_the_intent_confirmable(shop):
    intent = shop.pay(card="pm_card_threeDSecure2Required", return_url="https://shop.example/return")
    assert intent.next_action.redirect_to_url.return_url == "https://shop.example/return"

    shop.sandbox.control("POST", "authenticate", {"payment_intent": intent.id, "outcome": "fail"})

    failed = shop.v1.payment_intents.retrieve(intent.id)
    assert (failed.status, failed.latest_charge) == ("requires_payment_method", None)
    assert failed.last_payment_error.code == "payment_intent_authentication_failure"
    assert shop.event_types()[-1] == "payment_intent.payment_failed"


def test_authentication_off_session_is_a_decline(shared_shop):
    with pytest.raises(stripe.CardError) as decline:
        shared_shop.pay(card="pm_card_authenticationRequired", off_session=True)
    assert decline.value.code == "authentication_required"


def test_a_processing_intent_cannot_be_cancelled_and_succeeds_later(shop):
    intent = shop.pay(card="pm_card_processing")
    assert intent.status == "processing"
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        shop.v1.payment_intents.cancel(intent.id)
    assert refusal.value.code == "payment_intent_unexpected_state"
    eventually(lambda: shop.v1.payment_intents.retrieve(intent.id).status == "succeeded")
    assert shop.event_types()[1:] == ["payment_intent.processing", "charge.succeeded", "payment_intent.succeeded"]


def test_cancelling(shared_shop):
    shop = shared_shop
    intent = shop.open()
    cancelled = shop.v1.payment_intents.cancel(intent.id, {"cancellation_reason": "abandoned"})
    assert (cancelled.status, cancelled.cancellation_reason) == ("canceled", "abandoned")
    assert cancelled.canceled_at
    for call in (shop.v1.payment_intents.cancel, shop.v1.payment_intents.confirm):
        with pytest.raises(stripe.InvalidRequestError) as refusal:
            call(intent.id)
        assert refusal.value.code == "payment_intent_unexpected_state"
        assert error_of(refusal).payment_intent.status == "canceled"
    with pytest.raises(stripe.InvalidRequestError, match="status of succeeded"):
        shop.v1.payment_intents.cancel(shop.pay().id)


@pytest.mark.parametrize(
    ("params", "code", "param"),
    [
        ({"amount": 100}, "parameter_missing", "currency"),
        ({"currency": "usd"}, "parameter_missing", "amount"),
        ({"amount": 0, "currency": "usd"}, "parameter_invalid_integer", "amount"),
        ({"amount": -5, "currency": "usd"}, "parameter_invalid_integer", "amount"),
        ({"amount": "12.5", "currency": "usd"}, "parameter_invalid_integer", "amount"),
        ({"amount": "", "currency": "usd"}, "parameter_invalid_empty", "amount"),
        ({"amount": 49, "currency": "usd"}, "amount_too_small", "amount"),
        ({"amount": 100_000_000, "currency": "usd"}, "amount_too_large", "amount"),
        ({"amount": 100, "currency": "xxx"}, None, "currency"),
        ({"amount": 1005, "currency": "kwd"}, None, "amount"),
        ({"amount": 1050, "currency": "isk"}, None, "amount"),
        ({"amount": 100, "currency": "usd", "colour": "red"}, "parameter_unknown", "colour"),
        ({"amount": 100, "currency": "usd", "capture_method": "manual"}, None, "capture_method"),
        ({"amount": 100, "currency": "usd", "return_url": "https://x"}, None, "return_url"),
        ({"amount": 100, "currency": "usd", "payment_method": "pm_none"}, "resource_missing", "payment_method"),
    ],
)
def test_wrong_parameters_are_refused_in_stripes_words(shared_shop, params, code, param):
    before = shared_shop.v1.payment_intents.list({"limit": 1}).data
    with pytest.raises(stripe.InvalidRequestError) as refusal:
        shared_shop.v1.payment_intents.create(params)
    assert (refusal.value.code, refusal.value.param) == (code, param)
    assert [i.id for i in shared_shop.v1.payment_intents.list({"limit": 1}).data] == [i.id for i in before]


def test_an_unknown_id_is_404(shared_shop):
    for resource in ("payment_intents", "charges", "refunds", "balance_transactions", "events", "disputes", "payouts"):
        with pytest.raises(stripe.InvalidRequestError) as refusal:
            getattr(shared_shop.v1, resource).retrieve("xx_1")
        assert (refusal.value.http_status, refusal.value.code) == (404, "resource_missing")
    assert shared_shop.http("GET", "/v1/nothing").status_code == 404
    assert shared_shop.http("GET", "/v1/payment_intents/").status_code == 404


def test_confirming_on_the_server_with_redirects_allowed_needs_a_return_url(shared_shop):
    params = {"amount": 100, "currency": "usd", "payment_method": "pm_card_visa", "confirm": True}
    with pytest.raises(stripe.InvalidRequestError, match="return_url"):
        shared_shop.v1.payment_intents.create(params)
    assert shared_shop.v1.payment_intents.create({**params, "return_url": "https://shop.example"}).status == "succeeded"
    assert shared_shop.v1.payment_intents.create({**params, "payment_method_types": ["card"]}).status == "succeeded"
    with_both = {**params, "payment_method_types": ["card"], "automatic_payment_methods": CARD_ONLY}
    with pytest.raises(stripe.InvalidRequestError, match="only specify one"):
        shared_shop.v1.payment_intents.create(with_both)


def test_confirming_needs_a_payment_method(shared_shop):
    with pytest.raises(stripe.InvalidRequestError, match="missing a payment method"):
        shared_shop.v1.payment_intents.confirm(shared_shop.open().id)
    attached = shared_shop.open(payment_method="pm_card_visa")
    assert attached.status == "requires_confirmation"
    assert shared_shop.v1.payment_intents.confirm(attached.id).status == "succeeded"


def test_lists_come_newest_first_with_cursors_and_times(shop):
    ids = [shop.open(customer="cus_1" if n == 3 else "cus_2").id for n in range(7)]
    shop.sandbox.control("POST", "clock", {"advance_s": 86400})
    late = shop.open().id
    newest_first = [late, *ids[::-1]]
    list_ = shop.v1.payment_intents.list

    page = list_({"limit": 3})
    assert ([i.id for i in page.data], page.has_more) == (newest_first[:3], True)
    page = list_({"limit": 3, "starting_after": newest_first[2]})
    assert [i.id for i in page.data] == newest_first[3:6]
    page = list_({"limit": 2, "ending_before": newest_first[4]})
    assert ([i.id for i in page.data], page.has_more) == (newest_first[2:4], True)
    assert [i.id for i in list_({"limit": 2}).auto_paging_iter()] == newest_first
    assert [i.id for i in list_({"customer": "cus_1"}).data] == [ids[3]]
    moment = shop.v1.payment_intents.retrieve(late).created
    assert [i.id for i in list_({"created": {"gte": moment}}).data] == [late]
    assert [i.id for i in list_({"created": {"lt": moment}}).data] == ids[::-1]
    assert [i.id for i in list_({"created": {"gt": moment}}).data] == []
    # Times rule, not the order of creation: the clock can be turned back.
    shop.sandbox.control("POST", "clock", {"advance_s": -86400 * 2})
    early = shop.open().id
    assert [i.id for i in list_({"limit": 3}).auto_paging_iter()] == [*newest_first, early]
    for wrong in (
        {"limit": 101},
        {"limit": 0},
        {"starting_after": "pi_none"},
        {"created": {"after": 1}},
        {"created": "x"},
    ):
        with pytest.raises(stripe.InvalidRequestError):
            list_(wrong)


def test_expand(shared_shop):
    intent = shared_shop.pay()
    retrieve = shared_shop.v1.payment_intents.retrieve
    deep = retrieve(
        intent.id, {"expand": ["latest_charge.balance_transaction.source.payment_intent", "payment_method"]}
    )
    assert deep.latest_charge.balance_transaction.source.payment_intent.id == intent.id
    assert deep.payment_method.card.last4 == "4242"
    for wrong in ("colour", "amount", "data.latest_charge", "latest_charge.a.b.c.d"):
        with pytest.raises(stripe.InvalidRequestError):
            retrieve(intent.id, {"expand": [wrong]})


def test_metadata_is_merged_and_unset(shared_shop):
    intent = shared_shop.open(metadata={"a": "1", "b": "2"})
    changed = shared_shop.v1.payment_intents.update(intent.id, {"metadata": {"b": "", "c": "3"}, "amount": 900})
    assert (changed.metadata.to_dict(), changed.amount) == ({"a": "1", "c": "3"}, 900)
    with pytest.raises(stripe.InvalidRequestError):
        shared_shop.open(metadata={"k" * 41: "v"})


def test_success_rate_is_seeded_and_survives_a_kill(shop):
    def outcomes(count: int) -> str:
        results = ""
        for _ in range(count):
            try:
                results += "+" if shop.pay().status == "succeeded" else "?"
            except stripe.CardError as decline:
                results += "-" if getattr(decline.error, "decline_code", None) == "generic_decline" else "?"
        return results

    rate = {"percent": 70, "seed": 1}
    shop.sandbox.control("POST", "success_rate", rate)
    first = outcomes(60)
    assert 30 <= first.count("+") <= 52
    assert "?" not in first
    shop.sandbox.control("POST", "success_rate", rate)
    half = outcomes(30)
    shop.sandbox.kill()
    shop.sandbox.restart()
    assert half + outcomes(30) == first
    shop.sandbox.control("POST", "success_rate", {"percent": 0})
    assert outcomes(3) == "---"
    # A card with a behaviour of its own keeps it.
    assert shop.pay(card="pm_card_authenticationRequired").status == "requires_action"
