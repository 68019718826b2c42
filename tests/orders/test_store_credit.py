"""Store credit: held from checkout on, spent alone or with a card, given back when the attempt ends, refunded as credit."""

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import Sum
from django.db.models.functions import Now

from durability import stream
from orders import services
from orders.models import Order
from payments import gateway
from payments import services as payments
from payments.errors import PaymentNotRefundable, SecondPersonNeeded
from payments.models import CreditGrant, JournalEntry, Payment, Posting, Refund
from tests.campaigns.audit import audit
from tests.credit import CARD, DECLINED, credit, grant, payable, with_credit
from tests.orders.test_races import pay_in_browser
from tests.shop import Shop, open_shop, settle


def database_url() -> str:
    names = connection.settings_dict
    return f"postgresql://{names['USER']}:{names['PASSWORD']}@{names['HOST']}:{names['PORT']}/{names['NAME']}"


@pytest.fixture
def books(sandbox):
    """What a test has done is judged by the auditor."""
    sandbox.control("POST", "webhooks", {"mode": "drop"})
    yield
    settle()
    stream.mirror_batch()
    verdict = audit(database_url(), sandbox.url, slack_s=60)
    assert (verdict.findings, verdict.cents_off) == ((), {})
    assert Posting.objects.aggregate(total=Sum("amount_minor"))["total"] in (0, None)


def expire() -> None:
    Order.objects.filter(status="pending").update(expires_at=Now())
    services.rearm()
    services.expire_due()
    settle()


def attempt(shop: Shop, number: str, wish: dict) -> dict:
    answer = shop.storefront.post(
        f"/api/v1/orders/{number}/payments", wish, format="json", headers={"Idempotency-Key": "again"}
    )
    return {"http": answer.status_code, **answer.json()}


# --- Spending ---------------------------------------------------------------------------------------


def test_credit_pays_a_part_and_the_card_the_rest(shop, books):
    grant(shop, 600)
    answer = shop.checkout(payment=with_credit(400, CARD))
    assert answer.status_code == 201
    payment = answer.json()["payment"]
    assert (payment["amount"], payment["store_credit"], payment["method"]) == (1500, 400, "card")
    assert gateway.retrieve_intent(payment["provider_reference"]).amount_minor == 1100
    settle()
    assert shop.order(answer.json()["order"]["number"])["status"] == "paid"
    assert credit(shop) == (200, 0)
    assert payable(shop) == 1500 - 600  # the sale, less what the merchant gave away


def test_credit_is_held_while_the_browser_confirms(shop, sandbox, books):
    grant(shop, 600)
    body = shop.checkout(payment=with_credit(600)).json()
    assert body["payment"]["client_secret"]
    assert credit(shop) == (0, 600)
    pay_in_browser(sandbox, body["payment"])
    settle()
    assert (shop.order(body["order"]["number"])["status"], credit(shop)) == ("paid", (0, 0))


@pytest.mark.parametrize("method", ["card", "store_credit"])
def test_credit_alone_pays_without_asking_the_provider(shop, sandbox, books, method):
    grant(shop, 1500)
    answer = shop.checkout(payment={"method": method, "store_credit": 1500})
    assert answer.status_code == 201
    payment = answer.json()["payment"]
    assert (payment["status"], payment["method"], payment["amount"]) == ("succeeded", "store_credit", 1500)
    assert (payment["provider_reference"], payment["store_credit"]) == (None, 1500)
    assert "client_secret" not in payment
    settle()
    assert shop.order(answer.json()["order"]["number"])["status"] == "paid"
    assert (credit(shop), payable(shop), shop.level()) == ((0, 0), 0, (9, 0))
    assert sandbox.books()["charges"] == 0


def test_a_worker_pays_with_credit_alone_too(shop, books):
    grant(shop, 1500)
    answer = shop.checkout(payment=with_credit(1500), headers={"Prefer": "respond-async"})
    settle()
    assert shop.order(answer.json()["order"]["number"])["status"] == "paid"


def test_the_same_checkout_again_holds_nothing_again(shop, books):
    grant(shop, 2000)
    first = shop.checkout(key="once", payment=with_credit(800))
    second = shop.checkout(key="once", payment=with_credit(800))
    assert second.headers["Idempotent-Replayed"] == "true"
    assert first.json()["payment"]["number"] == second.json()["payment"]["number"]
    assert credit(shop) == (1200, 800)


# --- What is refused --------------------------------------------------------------------------------


def test_more_than_the_balance_is_refused_and_nothing_is_left_behind(shop, books):
    grant(shop, 399)
    answer = shop.checkout(key="k", payment=with_credit(400, CARD))
    assert (answer.status_code, answer.json()["code"]) == (409, "insufficient_store_credit")
    assert (answer.json()["available"], answer.json()["param"]) == (399, "payment.store_credit")
    assert (Order.objects.count(), Payment.objects.count(), shop.level(), credit(shop)) == (0, 0, (10, 0), (399, 0))
    grant(shop, 1)
    assert shop.checkout(key="k", payment=with_credit(400, CARD)).status_code == 201  # the key was not consumed
    settle()


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ({"method": "card", "store_credit": 1501}, "parameter_invalid"),
        ({"method": "store_credit", "store_credit": 1499}, "parameter_invalid"),
        ({"method": "store_credit"}, "parameter_missing"),
        ({"method": "card", "store_credit": 0}, "parameter_invalid"),
        ({"method": "card", "store_credit": 4.0}, "parameter_invalid"),
        ({"method": "card", "store_credit": "400"}, "parameter_invalid"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(shop, wish, code):
    grant(shop, 5000)
    answer = shop.checkout(payment=wish)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert answer.json()["param"] == "payment.store_credit"
    assert credit(shop) == (5000, 0)


def test_the_credit_of_another_customer_or_merchant_is_not_theirs(shop):
    grant(shop, 5000, customer="somebody-else")
    other = open_shop()
    grant(other, 5000)
    assert shop.checkout(payment=with_credit(100)).json()["code"] == "insufficient_store_credit"


# --- Given back -------------------------------------------------------------------------------------


def test_a_declined_card_gives_the_credit_back_and_another_attempt_takes_it_again(shop, books):
    grant(shop, 500)
    answer = shop.checkout(payment=with_credit(500, DECLINED))
    assert answer.status_code == 402
    assert credit(shop) == (500, 0)
    paid = attempt(shop, answer.json()["order"]["number"], with_credit(300, CARD))
    assert (paid["http"], paid["store_credit"], paid["amount"]) == (201, 300, 1500)
    settle()
    assert (shop.order(answer.json()["order"]["number"])["status"], credit(shop)) == ("paid", (200, 0))


def test_another_attempt_may_use_what_the_earlier_one_holds(shop, books):
    grant(shop, 500)
    number = shop.checkout(payment=with_credit(500)).json()["order"]["number"]
    assert attempt(shop, number, with_credit(500, CARD))["http"] == 201
    settle()
    assert (shop.order(number)["status"], credit(shop)) == ("paid", (0, 0))


def test_another_attempt_can_be_paid_by_credit_alone(shop, books):
    number = shop.checkout().json()["order"]["number"]
    grant(shop, 1500)
    paid = attempt(shop, number, with_credit(1500))
    assert (paid["http"], paid["status"], paid["method"]) == (201, "succeeded", "store_credit")
    settle()
    assert (shop.order(number)["status"], credit(shop)) == ("paid", (0, 0))


def test_another_attempt_with_more_credit_than_there_is_is_refused_at_once(shop):
    grant(shop, 500)
    number = shop.checkout(payment=with_credit(500)).json()["order"]["number"]
    refused = attempt(shop, number, with_credit(501))
    assert (refused["http"], refused["code"], refused["available"]) == (409, "insufficient_store_credit", 500)
    assert credit(shop) == (0, 500)


def test_a_checkout_that_the_provider_refuses_gives_the_credit_back(shop, books):
    grant(shop, 500)
    answer = shop.checkout(payment=with_credit(500, {**CARD, "payment_method": "pm_card_nobodys"}))
    assert answer.status_code == 424
    settle()
    assert (credit(shop), shop.level()) == ((500, 0), (10, 0))


@pytest.mark.parametrize("headers", [{}, {"Prefer": "respond-async"}], ids=["sent", "never sent"])
def test_expiry_gives_the_credit_back(shop, books, headers):
    grant(shop, 500)
    number = shop.checkout(payment=with_credit(500), headers=headers).json()["order"]["number"]
    expire()
    assert shop.order(number)["status"] == "cancelled"
    assert (credit(shop), shop.level()) == ((500, 0), (10, 0))


def test_cancelling_gives_the_credit_back(shop, books):
    grant(shop, 500)
    number = shop.checkout(payment=with_credit(500)).json()["order"]["number"]
    assert shop.post(f"/orders/{number}/cancel").json()["status"] == "cancelled"
    assert credit(shop) == (500, 0)


@pytest.mark.guard(9)
def test_money_that_arrives_after_the_credit_was_given_back_goes_back_too(shop, sandbox):
    """On the provider's word a cancelled attempt succeeds: what it took alone pays for nothing."""
    grant(shop, 500)
    body = shop.checkout(payment=with_credit(500)).json()
    shop.post(f"/orders/{body['order']['number']}/cancel")
    settle()
    sandbox.control("POST", "plant", {"kind": "status_mismatch"})
    payments.sync_payment(body["payment"]["provider_reference"], by="re-check")
    settle()
    payment, refund = Payment.objects.get(), Refund.objects.get()
    assert (payment.status, payment.settling, payment.credit_captured_minor) == ("succeeded", False, 0)
    assert (refund.status, refund.amount_minor, refund.credit_minor) == ("succeeded", 1000, 0)
    assert (credit(shop), shop.order(body["order"]["number"])["status"]) == ((500, 0), "cancelled")


def test_a_sale_that_cannot_be_carried_through_gives_card_and_credit_back(shop, monkeypatch):
    from foundation.errors import DomainError

    grant(shop, 500)
    answer = shop.checkout(payment=with_credit(500, CARD))

    def refuse(**_):
        raise DomainError("no stock after all")

    monkeypatch.setattr("orders.steps.services.commit_stock", refuse)
    settle()
    order = shop.order(answer.json()["order"]["number"])
    assert (order["status"], order["refund_status"]) == ("cancelled", "refunded")
    assert (credit(shop), payable(shop), shop.level()) == ((500, 0), -500, (10, 0))


# --- Refunds ----------------------------------------------------------------------------------------


def bought(shop: Shop, credit_minor: int, *, quantity: int = 1) -> dict:
    grant(shop, credit_minor)
    answer = shop.checkout(quantity=quantity, payment=with_credit(credit_minor, CARD))
    settle()
    return shop.order(answer.json()["order"]["number"])


def refund(shop: Shop, order: dict, amount: int | None = None) -> dict:
    body = {"reason": "a torn page"} | ({} if amount is None else {"amount": amount})
    document: dict = shop.post(f"/payments/{order['payments'][0]['number']}/refunds", body).json()
    return document


def test_a_full_refund_gives_each_part_back_to_where_it_came_from(shop, books):
    order = bought(shop, 500)
    made = refund(shop, order)
    assert (made["amount"], made["store_credit"]) == (1500, 500)
    settle()
    order = shop.order(order["number"])
    assert (order["refund_status"], order["payments"][0]["amount_refunded"]) == ("refunded", 1500)
    assert (credit(shop), payable(shop)) == ((500, 0), -500)


def test_partial_refunds_go_to_the_card_first(shop, books):
    order = bought(shop, 500)
    parts = []
    for amount in (700, 700, 100):
        made = refund(shop, order, amount)
        settle()
        parts.append((made["amount"], made.get("store_credit", 0)))
    assert parts == [(700, 0), (700, 400), (100, 100)]
    assert refund(shop, order, 1)["code"] == "refund_exceeds_captured"
    assert (credit(shop), shop.order(order["number"])["refund_status"]) == ((500, 0), "refunded")


def test_what_credit_alone_paid_is_refunded_as_credit(shop, books, sandbox):
    order = bought(shop, 1500)
    made = refund(shop, order, 600)
    settle()
    found = shop.storefront.get(f"/api/v1/refunds/{made['number']}").json()
    assert (found["status"], found["amount"], found["store_credit"]) == ("succeeded", 600, 600)
    assert found["provider_reference"] is None
    assert (credit(shop), shop.order(order["number"])["refund_status"]) == ((600, 0), "partial")
    assert sandbox.books()["refunded"] in ({}, {"usd": 0})


@pytest.mark.parametrize("credit_minor", [500, 1500])
def test_cancelling_a_paid_order_gives_its_credit_back_and_returns_its_stock(shop, books, credit_minor):
    order = bought(shop, credit_minor)
    shop.post(f"/orders/{order['number']}/cancel")
    settle()
    order = shop.order(order["number"])
    assert (order["status"], order["refund_status"]) == ("cancelled", "refunded")
    assert (credit(shop), shop.level()) == ((credit_minor, 0), (10, 0))


def test_a_refund_that_is_faster_than_the_sale_takes_the_held_credit(shop, books):
    grant(shop, 500)
    answer = shop.checkout(payment=with_credit(500, CARD)).json()
    refund(shop, {"payments": [answer["payment"]]}, 1200)
    settle()
    assert shop.order(answer["order"]["number"])["refund_status"] == "partial"
    assert (credit(shop), payable(shop)) == ((200, 0), 300 - 500)


def test_a_refund_that_the_provider_refuses_gives_no_credit(shop, sandbox):
    order = bought(shop, 500)
    sandbox.control("POST", "plant", {"kind": "missing_in_our_system_refund"})  # a part went back behind our back
    made = refund(shop, order)
    settle()
    assert shop.storefront.get(f"/api/v1/refunds/{made['number']}").json()["status"] == "failed"
    payment = Payment.objects.get()
    assert (payment.credit_refunds_committed_minor, payment.credit_refunded_minor) == (0, 0)
    assert credit(shop) == (0, 0)


@pytest.mark.guard(11)
def test_a_refund_that_fails_late_takes_no_credit_back(shop, sandbox):
    grant(shop, 500)
    answer = shop.checkout(payment=with_credit(500, {**CARD, "payment_method": "pm_card_refundFail"})).json()
    settle()
    made = refund(shop, {"payments": [answer["payment"]]})
    for _ in range(100):
        settle()
        if Refund.objects.get().status == "failed":
            break
    payment = Payment.objects.get()
    assert shop.storefront.get(f"/api/v1/refunds/{made['number']}").json()["status"] == "failed"
    assert credit(shop) == (500, 0)
    assert (payment.refunds_committed_minor, payment.credit_refunds_committed_minor) == (0, 500)
    assert shop.order(answer["order"]["number"])["refund_status"] == "partial"


def as_credit(shop: Shop, order: dict, amount: int | None = None) -> str:
    with transaction.atomic():
        number: str = payments.request_refund(
            payment=order["payments"][0]["number"],
            amount_minor=amount,
            reason="the card is closed",
            requested_by="clara",
            policy=None,
            as_credit=True,
        )
    return number


def test_what_a_card_paid_can_be_refunded_as_store_credit(shop, books, sandbox):
    order = shop.bought()
    as_credit(shop, order, 900)
    settle()
    assert (credit(shop), payable(shop)) == ((900, 0), 600)
    made = refund(shop, order)  # the rest: to the card, and no more than that
    assert (made["amount"], "store_credit" in made) == (600, False)
    settle()
    assert shop.order(order["number"])["refund_status"] == "refunded"
    assert sandbox.books()["refunded"] == {"usd": 600}


def test_nothing_becomes_store_credit_before_its_sale_is_in_the_books(shop, books):
    body = shop.checkout(payment=CARD).json()
    with pytest.raises(PaymentNotRefundable):
        as_credit(shop, {"payments": [body["payment"]]})


@pytest.mark.guard(10)
def test_the_database_holds_the_sum_of_refunds_to_card_and_as_credit(shop):
    bought(shop, 500)
    with pytest.raises(IntegrityError, match="payment_refunds_within_collected"), transaction.atomic():
        Payment.objects.update(refunds_committed_minor=1000, credit_refunds_committed_minor=501)


# --- Grants -----------------------------------------------------------------------------------------


def ask(shop: Shop, amount_minor: int, *, by: str = "clara", currency: str = "usd") -> bool:
    given: bool = payments.grant_store_credit(
        merchant_id=shop.merchant_id,
        customer="cust-1",
        currency=currency,
        amount_minor=amount_minor,
        reason="an apology",
        by=by,
    )
    return given


@pytest.mark.django_db
def test_a_grant_above_the_limit_waits_for_a_second_person():
    shop = open_shop(refund_approval_above_minor=1000)
    assert ask(shop, 1000) is True
    assert ask(shop, 1001) is False
    assert ask(shop, 1, currency="eur") is False  # the limit says nothing of euros
    waiting = CreditGrant.objects.get(amount_minor=1001)
    with pytest.raises(SecondPersonNeeded):
        payments.approve_grant(grant_id=waiting.pk, by="clara", why="fine")
    assert credit(shop) == (1000, 0)
    payments.approve_grant(grant_id=waiting.pk, by="dora", why="fine")
    assert credit(shop) == (2001, 0)
    refused = CreditGrant.objects.get(currency="eur")
    payments.refuse_grant(grant_id=refused.pk, by="dora", why="no euros")
    assert JournalEntry.objects.filter(kind="credit_grant").count() == 2


@pytest.mark.guard(15)
@pytest.mark.django_db
def test_the_database_wants_two_people_above_the_limit():
    shop = open_shop(refund_approval_above_minor=1000)
    ask(shop, 1001)
    for changes, rule in (
        ({"status": "granted"}, "credit_grant_above_the_limit_is_approved"),
        ({"status": "granted", "decided_by": "clara"}, "credit_grant_takes_two"),
    ):
        with pytest.raises(IntegrityError, match=rule), transaction.atomic():
            CreditGrant.objects.update(**changes)


def test_points_are_no_currency_to_sell_or_grant_in(shop):
    from foundation.money import UnknownCurrency

    with pytest.raises(UnknownCurrency):
        shop.stock("pointed", 1, currency="pts")
    with pytest.raises(UnknownCurrency):
        ask(shop, 100, currency="pts")
