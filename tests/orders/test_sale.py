"""What happens to a sale: paid, cancelled, expired, refunded; and when a step cannot be carried through."""

import pytest
import requests
from django.db.models import Sum
from django.db.models.functions import Now

from durability import services as durability
from durability.models import SagaRun
from inventory import services as inventory
from orders import services, timer
from orders.models import Order
from payments import gateway
from payments.errors import ContradictsProvider
from payments.models import Account, JournalEntry, Payment, Posting, Refund
from tests.shop import settle

CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}


def balance(kind: str) -> int:
    return Posting.objects.filter(account__kind=kind).aggregate(total=Sum("amount_minor"))["total"] or 0


def expire() -> None:
    Order.objects.filter(status="pending").update(expires_at=Now())
    services.rearm()
    services.expire_due()
    settle()


def test_the_books_of_a_sale_balance(shop):
    shop.bought(quantity=2)
    assert Posting.objects.aggregate(total=Sum("amount_minor"))["total"] == 0
    assert balance("merchant_payable") == -3000
    assert balance("customer") == 0
    assert balance("provider_clearing") == 3000 - balance("fees")
    assert balance("fees") == 117  # 2.9 % of 30.00 is 87, and 30


def test_a_second_telling_of_the_same_news_changes_nothing(shop):
    order = shop.bought()
    before = list(JournalEntry.objects.values_list("key", flat=True))
    reference = order["payments"][0]["provider_reference"]
    from payments import services as payments

    for _ in range(3):
        payments.sync_payment(reference, by="test")
    settle()
    assert list(JournalEntry.objects.values_list("key", flat=True)) == before
    assert shop.level() == (9, 0)


def test_an_unpaid_order_expires_its_intent_is_cancelled_and_its_stock_comes_back(shop):
    body = shop.checkout().json()
    expire()
    order = shop.order(body["order"]["number"])
    assert order["status"] == "cancelled"
    assert order["payments"][0]["status"] == "cancelled"
    assert gateway.retrieve_intent(body["payment"]["provider_reference"]).status == "canceled"
    assert shop.level() == (10, 0)


def test_an_order_that_never_reached_the_provider_expires_at_once(shop):
    body = shop.checkout(headers={"Prefer": "respond-async"}).json()
    Order.objects.update(expires_at=Now())
    services.rearm()
    services.expire_due()
    assert shop.order(body["order"]["number"])["status"] == "cancelled"
    assert shop.level() == (10, 0)
    settle()
    assert Payment.objects.get().provider_reference is None  # the worker that came later sent nothing


def test_an_order_does_not_expire_before_its_time(shop):
    shop.checkout()
    services.rearm()
    services.expire_due()
    settle()
    assert Order.objects.get().status == "pending"


def test_a_payment_that_beat_the_expiry_pays_the_order(shop):
    body = shop.checkout(payment=CONFIRMED).json()  # captured; the news are not applied yet
    expire()
    assert shop.order(body["order"]["number"])["status"] == "paid"
    assert shop.level() == (9, 0)


def test_paying_and_cancelling_remove_the_timer(shop):
    shop.bought()
    number = shop.checkout().json()["order"]["number"]
    shop.post(f"/orders/{number}/cancel")
    settle()
    from foundation.redis import client

    assert client().zcard(timer._SET) == 0


def test_the_database_rearms_a_timer_that_redis_lost(shop, valkey):
    body = shop.checkout().json()
    valkey.flushdb()
    expire()
    assert shop.order(body["order"]["number"])["status"] == "cancelled"


def test_a_customer_cancels_an_unpaid_order(shop):
    number = shop.checkout().json()["order"]["number"]
    answer = shop.storefront.post(
        f"/api/v1/orders/{number}/cancel", {}, format="json", headers={"Idempotency-Key": "c"}
    )
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert shop.level() == (10, 0)


def test_a_storefront_key_cannot_cancel_a_paid_order(shop):
    number = shop.bought()["number"]
    answer = shop.storefront.post(
        f"/api/v1/orders/{number}/cancel", {}, format="json", headers={"Idempotency-Key": "c"}
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "illegal_transition")


def test_cancelling_a_paid_order_refunds_it_returns_its_stock_and_blocks_shipping(shop):
    number = shop.bought()["number"]
    shop.post(f"/orders/{number}/cancel")
    assert shop.post(f"/orders/{number}/ship").json()["code"] == "illegal_transition"
    settle()
    order = shop.order(number)
    assert (order["status"], order["refund_status"]) == ("cancelled", "refunded")
    assert shop.level() == (10, 0)
    assert balance("merchant_payable") == balance("refunds_in_flight") == 0


def test_ship_and_complete(shop):
    number = shop.bought()["number"]
    assert shop.post(f"/orders/{number}/complete").json()["code"] == "illegal_transition"
    assert shop.post(f"/orders/{number}/ship", {"carrier": "Post", "tracking": "1"}).json()["status"] == "shipped"
    assert shop.post(f"/orders/{number}/complete").json()["status"] == "completed"


def test_a_paid_order_is_shipped_even_when_its_saga_was_cleaned_up_long_ago(shop):
    number = shop.bought()["number"]
    long_ago = "2020-01-01T00:00Z"
    SagaRun.objects.update(created_at=long_ago, finished_at=long_ago)
    assert durability.clean_up()["sagas"] == 2
    assert shop.post(f"/orders/{number}/ship").status_code == 200


def test_a_partial_refund_moves_money_and_neither_order_nor_stock(shop):
    order = shop.bought(quantity=2)
    payment = order["payments"][0]["number"]
    answer = shop.post(f"/payments/{payment}/refunds", {"amount": 1000, "reason": "a torn page"})
    assert (answer.status_code, answer.json()["amount"]) == (201, 1000)
    settle()
    refund = shop.storefront.get(f"/api/v1/refunds/{answer.json()['number']}").json()
    assert refund["status"] == "succeeded"
    order = shop.order(order["number"])
    assert (order["status"], order["refund_status"]) == ("paid", "partial")
    assert order["payments"][0]["amount_refunded"] == 1000
    assert shop.level() == (8, 0)
    assert balance("merchant_payable") == -2000


def test_a_refund_that_is_faster_than_the_sale_leaves_the_sale_alone(shop):
    body = shop.checkout(payment=CONFIRMED).json()  # captured; the sale is not posted yet
    answer = shop.post(f"/payments/{body['payment']['number']}/refunds", {"amount": 500, "reason": "a voucher"})
    assert answer.status_code == 201
    settle()
    order = shop.order(body["order"]["number"])
    assert (order["status"], order["refund_status"]) == ("paid", "partial")
    assert shop.level() == (9, 0)
    assert balance("merchant_payable") == -1000
    assert balance("customer") == balance("refunds_in_flight") == 0


def test_a_cancellation_that_is_faster_than_the_sale_returns_the_stock(shop, monkeypatch):
    number = shop.checkout(payment=CONFIRMED).json()["order"]["number"]

    def fault(**_: object) -> None:
        raise RuntimeError("the worker has a bad minute")

    with monkeypatch.context() as minute:
        minute.setattr(services, "commit_stock", fault)
        settle()
        assert shop.order(number)["status"] == "paid"
        shop.post(f"/orders/{number}/cancel")
        settle()
    assert shop.order(number)["status"] == "cancelled"
    SagaRun.objects.filter(state="running").update(attempts=0)
    settle()
    order = shop.order(number)
    assert (order["status"], order["refund_status"]) == ("cancelled", "refunded")
    assert not SagaRun.objects.filter(state="running").exists()
    assert shop.level() == (10, 0)
    assert balance("customer") == balance("merchant_payable") == balance("refunds_in_flight") == 0


def test_refunds_never_exceed_what_was_captured(shop):
    payment = shop.bought()["payments"][0]["number"]
    assert shop.post(f"/payments/{payment}/refunds", {"amount": 1000, "reason": "x"}).status_code == 201
    answer = shop.post(f"/payments/{payment}/refunds", {"amount": 501, "reason": "x"})
    assert (answer.status_code, answer.json()["code"]) == (409, "refund_exceeds_captured")
    assert shop.post(f"/payments/{payment}/refunds", {"reason": "the rest"}).json()["amount"] == 500


def test_a_payment_that_has_not_succeeded_is_not_refundable(shop):
    payment = shop.checkout().json()["payment"]["number"]
    answer = shop.post(f"/payments/{payment}/refunds", {"reason": "x"})
    assert (answer.status_code, answer.json()["code"]) == (409, "payment_not_refundable")


def test_a_paid_order_takes_no_second_payment(shop):
    order = shop.bought()
    answer = shop.storefront.post(
        f"/api/v1/orders/{order['number']}/payments", CONFIRMED, format="json", headers={"Idempotency-Key": "p"}
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "order_already_paid")
    assert answer.json()["payment"] == order["payments"][0]["number"]


def test_a_new_attempt_first_cancels_the_earlier_one_at_the_provider(shop):
    body = shop.checkout().json()
    answer = shop.storefront.post(
        f"/api/v1/orders/{body['order']['number']}/payments",
        {"method": "card"},
        format="json",
        headers={"Idempotency-Key": "p"},
    )
    assert answer.status_code == 201
    assert answer.json()["client_secret"]
    assert gateway.retrieve_intent(body["payment"]["provider_reference"]).status == "canceled"
    statuses = [payment["status"] for payment in shop.order(body["order"]["number"])["payments"]]
    assert statuses == ["cancelled", "pending"]


def test_a_definite_failure_after_the_capture_refunds_and_cancels(shop):
    body = shop.checkout(payment=CONFIRMED).json()
    number = body["order"]["number"]
    inventory.release_reserved(merchant_id=shop.merchant_id, reference=number, by="a fault")  # nothing to commit now
    settle()
    order = shop.order(number)
    assert (order["status"], order["refund_status"]) == ("cancelled", "refunded")
    assert SagaRun.objects.get(recipe="orders.payment_success").state == "compensated"
    assert Refund.objects.get().status == "succeeded"
    assert shop.level() == (10, 0)
    assert balance("customer") == balance("merchant_payable") == balance("refunds_in_flight") == 0
    assert Account.objects.get(kind="customer").balance_minor == 0


def test_money_that_arrives_for_a_cancelled_order_is_refunded_by_itself(shop):
    body = shop.checkout(payment=CONFIRMED).json()
    number = body["order"]["number"]
    # As if expiry had won: the order is cancelled, and then the provider says that it has the money.
    Order.objects.update(status="cancelled")
    inventory.release_reserved(merchant_id=shop.merchant_id, reference=number, by="expiry")
    settle()
    order = shop.order(number)
    assert (order["status"], order["refund_status"]) == ("cancelled", "refunded")
    assert shop.level() == (10, 0)


def test_a_charge_that_our_books_miss_is_attached_to_its_order(shop, sandbox):
    """The provider has the money of an open order, and we know of no such payment."""
    body = shop.checkout().json()
    number = body["order"]["number"]
    paid = gateway.create_intent(
        number="elsewhere",
        amount_minor=1500,
        currency="usd",
        metadata={"order": number},
        payment_method="pm_card_visa",
        confirm=True,
    )
    assert paid.charge is not None
    adopted = services.attach_payment(order_number=number, charge=paid.charge.id, by="clerk", why="paid by phone")
    assert adopted == services.attach_payment(order_number=number, charge=paid.charge.id, by="clerk", why="again")
    settle()
    order = shop.order(number)
    assert order["status"] == "paid"
    assert [payment["status"] for payment in order["payments"]] == ["cancelled", "succeeded"]
    assert gateway.retrieve_intent(body["payment"]["provider_reference"]).status == "canceled"
    assert shop.level() == (9, 0)
    assert balance("merchant_payable") == -1500


def test_a_charge_of_another_amount_is_not_attached(shop):
    number = shop.checkout(quantity=2).json()["order"]["number"]
    paid = gateway.create_intent(
        number="elsewhere2",
        amount_minor=1500,
        currency="usd",
        metadata={},
        payment_method="pm_card_visa",
        confirm=True,
    )
    assert paid.charge is not None
    with pytest.raises(ContradictsProvider):
        services.attach_payment(order_number=number, charge=paid.charge.id, by="clerk", why="a guess")
    settle()
    assert shop.order(number)["status"] == "pending"


def test_a_refund_that_fails_withdraws_the_cancellation_which_can_be_asked_for_again(shop, sandbox, settings):
    settings.PROVIDER_LOOKUP_GRACE_S = 0
    number = shop.bought()["number"]
    sandbox.control("POST", "faults", {"match": "POST /v1/refunds", "kind": "error_500", "times": 1})
    assert shop.post(f"/orders/{number}/cancel").status_code == 200
    settle()
    order = shop.order(number)
    assert (order["status"], order["refund_status"]) == ("paid", "none")
    shop.post(f"/orders/{number}/cancel")
    settle()
    assert shop.order(number)["status"] == "cancelled"
    assert shop.level() == (10, 0)


def test_an_order_that_was_refunded_in_full_is_cancelled_at_once(shop):
    order = shop.bought()
    shop.post(f"/payments/{order['payments'][0]['number']}/refunds", {"reason": "x"})
    settle()
    answer = shop.post(f"/orders/{order['number']}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert shop.level() == (10, 0)


def test_a_cancellation_that_the_payment_beat_is_told_so(shop, sandbox):
    body = shop.checkout().json()
    number, payment = body["order"]["number"], body["payment"]
    pay_in_browser(sandbox, payment)  # and no webhook has come yet
    answer = shop.post(f"/orders/{number}/cancel", key="c")
    assert (answer.status_code, answer.json()["code"]) == (409, "order_already_paid")
    settle()
    assert shop.order(number)["status"] == "paid"
    assert shop.post(f"/orders/{number}/cancel", key="again").json()["refund_status"] == "refunding"


def test_what_is_not_sold_through_is_not_shipped(shop, monkeypatch):
    number = shop.checkout(payment=CONFIRMED).json()["order"]["number"]

    def fault(**_: object) -> None:
        raise RuntimeError("the worker has a bad minute")

    with monkeypatch.context() as minute:
        minute.setattr(services, "commit_stock", fault)
        settle()
        answer = shop.post(f"/orders/{number}/ship")
    assert shop.order(number)["status"] == "paid"
    assert (answer.status_code, answer.json()["code"]) == (409, "illegal_transition")


def pay_in_browser(sandbox, payment) -> None:
    """What Stripe.js does: a publishable key and the client_secret."""
    requests.post(
        f"{sandbox.url}/v1/payment_intents/{payment['provider_reference']}/confirm",
        data={"client_secret": payment["client_secret"], "payment_method": "pm_card_visa"},
        headers={"Authorization": "Bearer pk_test_sandbox"},
        timeout=10,
    ).raise_for_status()
