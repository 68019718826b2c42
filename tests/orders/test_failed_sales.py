"""A sale that fails after the money was taken: retried to its end, or the customer refunded and the order cancelled.

Each step fails in turn, for a while and for good; so does each undo. Never is money taken and the order open.
"""

from typing import Any

import pytest
from django.db import transaction
from django.db.models.functions import Now

from durability import services as durability
from durability.models import Delivery, SagaRun
from foundation.errors import DomainError, IllegalTransition
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


def decided(sandbox: Any, dispute: str, status: str) -> None:
    sandbox.control("POST", "disputes/outcome", {"dispute": dispute, "status": status})
    settle()


def disputed(sandbox: Any, payment: Payment, **body: Any) -> str:
    """The customer's bank takes a payment back, and we hear of it: the provider's number."""
    made = sandbox.control("POST", "disputes", {"payment_intent": payment.provider_reference, **body})
    settle()
    number: str = made["id"]
    return number


def test_a_lost_dispute_over_what_no_sale_explains_and_is_owed_costs_the_merchant_nothing(
    shop, monkeypatch, sandbox, settings
):
    settings.PROVIDER_LOOKUP_GRACE_S = 0
    number = paid(shop)
    sandbox.control("POST", "faults", {"match": "POST /v1/refunds", "kind": "error_500", "times": 1})
    with monkeypatch.context() as minute:
        minute.setattr(*STEPS["commit stock"], refuses)
        settle()
    assert balance("refunds_owed") == -1500
    made = disputed(sandbox, Payment.objects.get())
    decided(sandbox, made, "lost")
    assert (balance("refunds_owed"), balance("customer"), balance("merchant_payable")) == (0, 0, 0)
    decided(sandbox, made, "won")  # an appeal: the customer waits for it again, and gets it by itself
    assert_given_back(shop, number)


def test_what_was_lost_before_the_sale_was_posted_and_won_after_it_is_the_merchants(shop, monkeypatch, sandbox):
    paid(shop)
    with monkeypatch.context() as minute:
        minute.setattr(*STEPS["post the sale"], breaks)
        settle()
        made = disputed(sandbox, Payment.objects.get(), amount=600)
        decided(sandbox, made, "lost")
    tried_often()
    assert (balance("customer"), balance("merchant_payable")) == (0, -900)
    decided(sandbox, made, "won")
    assert (balance("customer"), balance("merchant_payable")) == (0, -1500)


def test_a_loss_takes_nothing_of_what_the_same_customer_paid_for_another_order(shop, monkeypatch, sandbox):
    paid(shop)
    with monkeypatch.context() as minute:
        minute.setattr(*STEPS["commit stock"], refuses)
        settle()
    given_back = Payment.objects.get()
    assert given_back.refunded_minor == 1500
    other = paid(shop)
    with monkeypatch.context() as minute:
        minute.setattr(*STEPS["post the sale"], breaks)
        settle()
        decided(sandbox, disputed(sandbox, given_back), "lost")
        assert balance("customer") == -1500
    tried_often()
    assert shop.order(other)["status"] == "paid"
    assert (balance("customer"), balance("merchant_payable")) == (0, 0)


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


def test_a_cancellation_waits_for_its_own_refund_whatever_becomes_of_an_older_one(shop, sandbox):
    careful = open_shop(refund_approval_above_minor=1000)
    careful.stock("book", 10)
    sold = careful.bought()
    number, payment = sold["number"], sold["payments"][0]["number"]
    careful.post(f"/payments/{payment}/refunds", {"amount": 300, "reason": "a torn page"})
    settle()
    older = Refund.objects.get()
    careful.post(f"/orders/{number}/cancel")
    sandbox.control("POST", "refunds/outcome", {"refund": older.provider_reference, "status": "failed"})
    settle()
    older.refresh_from_db()
    assert older.status == "failed"
    assert careful.post(f"/orders/{number}/ship").json()["code"] == "illegal_transition"  # 12.00 may be on their way
    with transaction.atomic():
        payments.approve_refund(number=Refund.objects.get(status="awaiting_approval").number, by="paul", why="yes")
    settle()
    order = Order.objects.get()
    assert (order.status, order.cancel_requested_at) == ("paid", None)  # 3.00 are owed: a person asks for it again
    careful.post(f"/orders/{number}/cancel")
    settle()
    assert_given_back(careful, number)


@pytest.mark.parametrize("lost", [1500, 600])
def test_what_a_lost_dispute_took_does_not_keep_a_paid_order_from_being_cancelled(shop, sandbox, lost):
    number = shop.bought()["number"]
    made = disputed(sandbox, Payment.objects.get(), amount=lost)
    decided(sandbox, made, "lost")
    answer = shop.post(f"/orders/{number}/cancel")
    settle()
    order = Order.objects.get()
    assert (answer.status_code, order.status) == (200, "cancelled")
    assert "lost to a dispute" in order.history.latest("pk").why
    assert shop.level() == (10, 0)
    assert (balance("merchant_payable"), balance("customer"), balance("disputes")) == (0, 0, 0)
    # An appeal: money for an order that is cancelled goes back by itself.
    decided(sandbox, made, "won")
    payment = Payment.objects.get()
    assert (payment.refunded_minor, payment.disputed_lost_minor, balance("merchant_payable")) == (1500, 0, 0)


# --- What an operator may not decide ----------------------------------------------------------------


def test_nobody_skips_that_the_order_is_paid_or_that_its_money_goes_back(shop, monkeypatch):
    number = paid(shop)
    with monkeypatch.context() as minute:
        minute.setattr(services, "mark_paid", breaks)
        settle()
        with pytest.raises(IllegalTransition, match="Money would be taken"):
            durability.skip_saga_step(run_id=sale().pk, by="olga", reason="it hangs")
        durability.compensate_saga(run_id=sale().pk, by="olga", reason="it hangs")
        minute.setattr(services, "cancel_and_request_refund", breaks)
        tried_often()
        assert sale().state == "compensation_failed"
        with pytest.raises(IllegalTransition, match="Money would be taken"):
            durability.skip_saga_step(run_id=sale().pk, by="olga", reason="it hangs")
    durability.retry_saga(run_id=sale().pk, by="olga")
    settle()
    assert_given_back(shop, number)


def test_what_was_done_by_hand_may_be_skipped(shop, monkeypatch):
    number = paid(shop)
    monkeypatch.setattr(*STEPS["commit stock"], refuses)
    monkeypatch.setattr(services, "cancel_and_request_refund", breaks)
    tried_often()
    with transaction.atomic():
        services.request_cancel(
            number=number, merchant_id=shop.merchant_id, unpaid_only=False, by="olga", hold=False, why="by hand"
        )
    settle()
    durability.skip_saga_step(run_id=sale().pk, by="olga", reason="cancelled and refunded by hand")
    assert sale().state == "compensated"
    assert_given_back(shop, number)


def test_a_checkout_that_an_operator_turns_back_leaves_no_payment_open(shop, sandbox, settings):
    settings.PROVIDER_LOOKUP_GRACE_S = 0
    sandbox.control("POST", "faults", {"match": "POST /v1/payment_intents", "kind": "reset", "times": 1})
    number = shop.checkout().json()["order"]["number"]
    run = SagaRun.objects.get(recipe="orders.checkout")
    assert (run.state, Payment.objects.get().status) == ("running", "unknown")
    durability.compensate_saga(run_id=run.pk, by="olga", reason="it hangs")
    settle()
    assert (shop.order(number)["status"], Payment.objects.get().status) == ("cancelled", "cancelled")
    assert shop.level() == (10, 0)
