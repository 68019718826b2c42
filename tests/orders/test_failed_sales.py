"""A sale that fails after the money was taken: retried to its end, or the customer refunded and the order cancelled.

Each step fails in turn, for a while and for good; so does each undo. Never is money taken and the order open.
"""

from typing import Any

import pytest
from django.db import transaction
from django.db.models.functions import Now

from durability import services as durability
from durability.models import Delivery, SagaRun
from foundation.errors import DomainError
from orders import services
from orders.models import Order
from payments import services as payments
from payments.models import Payment, Refund
from tests.payments.books import assert_books_agree, balance
from tests.shop import Shop, open_shop, settle

CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}
# Where each step's work and its undo are found by the saga's steps.
STEPS = {
    "mark order paid": (services, "mark_paid"),
    "commit stock": (services, "commit_stock"),
    "post the sale": (payments, "post_sale"),
}
UNDOS = {
    "mark order paid": (services, "cancel_and_request_refund"),
    "commit stock": (services, "return_stock"),
    "post the sale": (payments, "reverse_sale"),
}


def breaks(*_: object, **__: object) -> None:
    raise RuntimeError("the worker has a bad minute")


def refuses(*_: object, **__: object) -> None:
    raise DomainError("it can never be done")


def paid(shop: Shop) -> str:
    """The provider has the money, and no news has come: the order's number."""
    number: str = shop.checkout(payment=CONFIRMED).json()["order"]["number"]
    return number


def sale() -> SagaRun:
    return SagaRun.objects.get(recipe="orders.payment_success")


def tried_often() -> None:
    for _ in range(10):
        SagaRun.objects.filter(state__in=["running", "compensating"]).update(available_at=Now())
        settle()


def assert_given_back(shop: Shop, number: str) -> None:
    order = shop.order(number)
    assert (order["status"], order["refund_status"]) == ("cancelled", "refunded")
    assert shop.level() == (10, 0)
    assert balance("customer") == balance("merchant_payable") == balance("refunds_in_flight") == 0
    assert_books_agree(Payment.objects.get())
    assert not Delivery.objects.filter(state="parked").exists()


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_for_a_while_is_retried_to_success(shop, monkeypatch, step):
    number = paid(shop)
    with monkeypatch.context() as minute:
        minute.setattr(*STEPS[step], breaks)
        settle()
        assert sale().state == "running"
        assert not Refund.objects.exists()
    tried_often()
    assert (sale().state, shop.order(number)["status"], shop.level()) == ("completed", "paid", (9, 0))
    assert balance("merchant_payable") == -1500


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_is_refused_cancels_the_order_and_refunds_the_customer(shop, monkeypatch, step):
    number = paid(shop)
    monkeypatch.setattr(*STEPS[step], refuses)
    settle()
    assert sale().state == "compensated"
    assert_given_back(shop, number)
    undone = list(sale().steps.order_by("index").values_list("state", flat=True))
    assert undone == ["undone"] * (list(STEPS).index(step) + 1)


@pytest.mark.parametrize("undo", UNDOS)
def test_an_undo_that_fails_for_a_while_is_retried(shop, monkeypatch, undo):
    number = paid(shop)
    monkeypatch.setattr(*STEPS["post the sale"], refuses)
    with monkeypatch.context() as minute:
        minute.setattr(*UNDOS[undo], breaks)
        settle()
        assert sale().state == "compensating"
    tried_often()
    assert_given_back(shop, number)


@pytest.mark.parametrize("undo", UNDOS)
def test_an_undo_that_fails_for_good_waits_for_an_operator_who_ends_it(shop, monkeypatch, undo, caplog):
    number = paid(shop)
    monkeypatch.setattr(*STEPS["post the sale"], refuses)
    with monkeypatch.context() as minute:
        minute.setattr(*UNDOS[undo], breaks)
        tried_often()
        assert sale().state == "compensation_failed"
        assert "a person must look" in caplog.text
        assert shop.post(f"/orders/{number}/ship").json()["code"] == "illegal_transition"  # nothing leaves the house
    durability.retry_saga(run_id=sale().pk, by="olga")
    settle()
    assert sale().state == "compensated"
    assert_given_back(shop, number)


def test_the_undo_runs_in_reverse(shop, monkeypatch):
    paid(shop)
    told: list[str] = []

    def noting(name: str, real: Any) -> Any:
        def undo(*args: Any, **values: Any) -> None:
            told.append(name)
            real(*args, **values)

        return undo

    for name, (module, verb) in UNDOS.items():
        monkeypatch.setattr(module, verb, noting(name, getattr(module, verb)))
    monkeypatch.setattr(*STEPS["post the sale"], refuses)
    settle()
    assert told == ["post the sale", "commit stock", "mark order paid"]


def test_above_the_merchants_limit_too_the_money_goes_back_by_itself(shop, monkeypatch):
    careful = open_shop(refund_approval_above_minor=0)
    careful.stock("book", 10)
    number = paid(careful)
    monkeypatch.setattr(*STEPS["commit stock"], refuses)
    settle()
    assert careful.order(number)["refund_status"] == "refunded"
    assert Refund.objects.get().automatic


def test_where_the_provider_refuses_the_refund_the_customer_is_owed_and_staff_pays_again(
    shop, monkeypatch, sandbox, settings
):
    settings.PROVIDER_LOOKUP_GRACE_S = 0
    number = paid(shop)
    sandbox.control("POST", "faults", {"match": "POST /v1/refunds", "kind": "error_500", "times": 1})
    with monkeypatch.context() as minute:
        minute.setattr(*STEPS["commit stock"], refuses)
        settle()
    order = shop.order(number)
    assert (order["status"], order["refund_status"]) == ("cancelled", "none")
    payment, refund = Payment.objects.get(), Refund.objects.get()
    assert (payment.refunds_owed_minor, balance("refunds_owed"), balance("customer")) == (1500, -1500, 0)
    assert_books_agree(payment)
    with transaction.atomic():
        payments.refund_again(number=refund.number, by="maria", why="the provider is back")
    settle()
    assert_given_back(shop, number)


@pytest.mark.guard(10)
@pytest.mark.parametrize(("outcome", "refunds"), [("won", 1), ("lost", 0)])
def test_what_is_disputed_when_the_sale_fails_goes_back_once_by_one_of_the_two_ways(  # noqa: PLR0917
    shop, monkeypatch, caplog, sandbox, outcome, refunds
):
    number = paid(shop)
    with monkeypatch.context() as minute:
        minute.setattr(*STEPS["commit stock"], breaks)
        settle()
        disputed = sandbox.control("POST", "disputes", {"payment_intent": Payment.objects.get().provider_reference})
        settle()
    monkeypatch.setattr(*STEPS["commit stock"], refuses)
    tried_often()
    assert (shop.order(number)["status"], sale().state) == ("cancelled", "compensated")  # not open
    assert not Refund.objects.exists()  # and not paid twice
    assert "is disputed" in caplog.text
    sandbox.control("POST", "disputes/outcome", {"dispute": disputed["id"], "status": outcome})
    settle()
    assert Refund.objects.filter(status="succeeded").count() == refunds
    assert balance("customer") == balance("refunds_in_flight") == 0
    assert shop.level() == (10, 0)


def test_a_whole_refund_that_was_faster_than_the_sale_and_failed_leaves_the_merchant_paid(
    shop, monkeypatch, sandbox, settings
):
    settings.PROVIDER_LOOKUP_GRACE_S = 0
    number = paid(shop)
    with monkeypatch.context() as minute:
        minute.setattr(*STEPS["post the sale"], breaks)
        settle()
        shop.post(f"/orders/{number}/cancel")  # held from the customer's account: no sale is posted yet
        sandbox.control("POST", "faults", {"match": "POST /v1/refunds", "kind": "error_500", "times": 1})
        settle()
    tried_often()
    assert (shop.order(number)["status"], sale().state) == ("paid", "completed")
    assert (balance("merchant_payable"), balance("customer")) == (-1500, 0)


# --- Money for an order that is closed --------------------------------------------------------------


@pytest.mark.guard(9)
def test_a_success_after_the_cancellation_is_refunded_by_itself(shop, sandbox):
    """The provider's word alone makes a cancelled payment succeed; nobody asked for this money any more."""
    body = shop.checkout().json()
    number = body["order"]["number"]
    shop.post(f"/orders/{number}/cancel")
    settle()
    sandbox.control("POST", "plant", {"kind": "status_mismatch"})  # the cancelled intent has succeeded after all
    payments.sync_payment(body["payment"]["provider_reference"], by="re-check")
    settle()
    assert_given_back(shop, number)
    refund = Refund.objects.get()
    assert (refund.automatic, refund.amount_minor, refund.status) == (True, 1500, "succeeded")


# --- Cancelling what was paid, above the limit ------------------------------------------------------


@pytest.fixture
def waiting(shop) -> tuple[Shop, str, Refund]:
    """A paid order whose cancellation waits for a second person."""
    careful = open_shop(refund_approval_above_minor=1000)
    careful.stock("book", 10)
    number = careful.bought()["number"]
    answer = careful.post(f"/orders/{number}/cancel")
    assert (answer.status_code, answer.json()["status"], answer.json()["refund_status"]) == (200, "paid", "refunding")
    settle()
    refund = Refund.objects.get()
    assert refund.status == "awaiting_approval"
    return careful, number, refund


def test_until_a_second_person_has_decided_the_order_is_being_cancelled_and_not_shipped(waiting):
    shop, number, _ = waiting
    assert Order.objects.get().cancel_requested_at is not None
    assert shop.post(f"/orders/{number}/ship").json()["code"] == "illegal_transition"
    assert shop.level() == (9, 0)
    assert shop.post(f"/orders/{number}/cancel").status_code == 200  # asked again: the same answer
    assert Refund.objects.count() == 1


def test_the_approval_cancels_the_order(waiting):
    shop, number, refund = waiting
    with transaction.atomic():
        payments.approve_refund(number=refund.number, by="paul", why="yes")
    settle()
    assert_given_back(shop, number)


def test_the_rejection_withdraws_the_cancellation(waiting):
    shop, number, refund = waiting
    with transaction.atomic():
        payments.reject_refund(number=refund.number, by="paul", why="it is on its way already")
    settle()
    order = Order.objects.get()
    assert (order.status, order.cancel_requested_at, shop.order(number)["refund_status"]) == ("paid", None, "none")
    assert "rejected" in order.history.latest("pk").why
    assert shop.post(f"/orders/{number}/ship").status_code == 200
