"""A refund that the bank sends back after it had succeeded: a debt to the customer until it is paid again."""

import time

import pytest
from django.db import transaction

from foundation.errors import IllegalTransition
from payments import services
from payments.models import Account, Payment, Refund
from tests.payments.books import assert_books_agree, balance
from tests.shop import Shop, settle

LATE_NEWS_S = 0.3  # the sandbox of the tests sends late news after 0.2 s


@pytest.fixture
def sold(shop) -> str:
    """A sale of 15.00 on a card whose refunds come back: its payment's number."""
    body = {"method": "card", "payment_method": "pm_card_refundFail", "confirm": True}
    answer = shop.checkout(payment=body)
    settle()
    number: str = answer.json()["payment"]["number"]
    return number


def refund(shop: Shop, payment: str, amount: int) -> Refund:
    answer = shop.post(f"/payments/{payment}/refunds", {"amount": amount, "reason": "a torn page"})
    settle(webhooks=False)
    return Refund.objects.get(pk=Refund.id_of(answer.json()["number"]))


def came_back(shop: Shop, payment: str, amount: int = 500) -> Refund:
    made = refund(shop, payment, amount)
    assert made.status == "succeeded"
    time.sleep(LATE_NEWS_S)
    settle()
    made.refresh_from_db()
    return made


def again(made: Refund, **options: bool) -> Refund:
    with transaction.atomic():
        number = services.refund_again(number=made.number, by="maria", why="to the other card", **options)
    return Refund.objects.get(pk=Refund.id_of(number))


@pytest.mark.guard(11)
def test_what_came_back_is_owed_to_the_customer_and_not_the_merchants(shop, sold, caplog):
    made = came_back(shop, sold)
    assert (made.status, made.failed_late_at is not None) == ("failed", True)
    assert [(step.from_state, step.to_state) for step in made.history.order_by("pk")][-1] == ("succeeded", "failed")
    account = Account.objects.get(kind="refunds_owed")
    assert account.customer == "cust-1"
    assert (balance("refunds_owed"), balance("merchant_payable"), balance("refunds_in_flight")) == (-500, -1000, 0)
    payment = Payment.objects.get()
    assert payment.refunds_owed_minor == 500
    assert_books_agree(payment)
    assert "it is owed to the customer" in caplog.text


def test_it_can_be_refunded_again_and_the_debt_is_what_is_paid(shop, sold):
    made = came_back(shop, sold)
    shown = shop.storefront.get(f"/api/v1/payments/{sold}").json()
    assert (shown["amount_refunded"], shown["refund_status"]) == (0, "none")
    second = again(made)
    assert (second.amount_minor, second.again_of_id, second.requested_by) == (500, made.pk, "maria")
    assert (balance("refunds_owed"), balance("merchant_payable")) == (0, -1000)
    assert_books_agree(Payment.objects.get())
    with pytest.raises(IllegalTransition, match="again already"):
        again(made)


def test_an_ordinary_refund_pays_the_debt_first(shop, sold):
    came_back(shop, sold)
    refund(shop, sold, 1500)
    assert (balance("refunds_owed"), balance("merchant_payable")) == (0, 0)
    assert_books_agree(Payment.objects.get())


def test_a_second_failure_owes_the_whole_of_it(shop, sold):
    came_back(shop, sold, 500)
    came_back(shop, sold, 800)
    assert Payment.objects.get().refunds_owed_minor == 800
    assert_books_agree(Payment.objects.get())


def test_a_new_refund_that_is_refused_leaves_the_debt_as_it_was(shop, sold, sandbox, settings):
    settings.PROVIDER_LOOKUP_GRACE_S = 0
    made = came_back(shop, sold)
    sandbox.control("POST", "faults", {"match": "POST /v1/refunds", "kind": "error_500", "times": 1})
    again(made)
    settle()
    assert sorted(Refund.objects.values_list("status", flat=True)) == ["failed", "failed"]
    assert (Payment.objects.get().refunds_owed_minor, balance("merchant_payable")) == (500, -1000)
    assert_books_agree(Payment.objects.get())


def test_what_is_owed_can_be_paid_by_our_own_bank(shop, sold, sandbox):
    made = came_back(shop, sold)
    before = sandbox.books()["refunded"]
    second = again(made, paid_outside=True)
    settle()
    second.refresh_from_db()
    assert (second.status, second.paid_outside, second.provider_reference) == ("succeeded", True, None)
    assert (balance("refunds_owed"), balance("bank")) == (0, -500)
    assert sandbox.books()["refunded"] == before
    assert_books_agree(Payment.objects.get())
    with pytest.raises(IllegalTransition):
        again(made, paid_outside=True)


def test_only_a_debt_is_paid_outside(shop, sandbox, settings):
    settings.PROVIDER_LOOKUP_GRACE_S = 0
    payment = shop.bought()["payments"][0]["number"]
    sandbox.control("POST", "faults", {"match": "POST /v1/refunds", "kind": "error_500", "times": 1})
    made = refund(shop, payment, 500)
    assert made.status == "failed"
    with pytest.raises(IllegalTransition, match="Nothing is owed"):
        again(made, paid_outside=True)
    assert again(made).amount_minor == 500


def test_a_refund_that_did_not_fail_is_not_made_again(shop):
    made = refund(shop, shop.bought()["payments"][0]["number"], 500)
    with pytest.raises(IllegalTransition):
        again(made)


def test_what_a_lost_dispute_gave_the_customer_is_not_owed_any_more(shop, sold, sandbox):
    came_back(shop, sold)
    payment = Payment.objects.get()
    made = sandbox.control("POST", "disputes", {"payment_intent": payment.provider_reference, "amount": 1200})
    sandbox.control("POST", "disputes/outcome", {"dispute": made["id"], "status": "lost"})
    settle()
    payment.refresh_from_db()
    assert (payment.disputed_lost_minor, payment.refunds_owed_minor) == (1200, 300)  # of 5.00: 3.00 are left to give
    assert (balance("refunds_owed"), balance("merchant_payable")) == (-300, 0)
    settle()
    assert balance("refunds_owed") == -300
    # An appeal takes it back from the customer, who then waits for the whole debt again.
    sandbox.control("POST", "disputes/outcome", {"dispute": made["id"], "status": "won"})
    settle()
    payment.refresh_from_db()
    assert payment.refunds_owed_minor == 500
    assert (balance("refunds_owed"), balance("merchant_payable")) == (-500, -1000)
    assert_books_agree(payment)


def test_a_cancelled_order_whose_refund_came_back_stays_cancelled_and_owes(shop):
    body = {"method": "card", "payment_method": "pm_card_refundFail", "confirm": True}
    number = shop.checkout(payment=body).json()["order"]["number"]
    settle()
    shop.post(f"/orders/{number}/cancel")
    settle(webhooks=False)
    assert shop.order(number)["status"] == "cancelled"
    time.sleep(LATE_NEWS_S)
    settle()
    assert shop.order(number)["status"] == "cancelled"
    assert (balance("refunds_owed"), balance("merchant_payable")) == (-1500, 0)


@pytest.mark.guard(11)
def test_the_failure_is_found_by_reading_again_where_no_webhook_tells_of_it(shop, sold):
    made = refund(shop, sold, 500)
    assert made.next_check_at is not None  # a success is not the end
    time.sleep(LATE_NEWS_S)
    Refund.objects.update(next_check_at="2026-01-01T00:00Z")
    services.recheck_due()
    made.refresh_from_db()
    assert made.status == "failed"
