"""One customer's store credit under two hands at once: it is spent once, or given back once."""

from typing import Any

import pytest
from django.db.models import Sum
from django.db.models.functions import Now

from durability.types import Succeeded
from orders import services
from orders.models import Order
from payments import ledger
from payments import services as payments
from payments.models import Account, Payment
from payments.services import payment_news
from tests.credit import credit, grant, with_credit
from tests.orders.test_races import expire, fate, pay_in_browser
from tests.races import Race, orders
from tests.shop import Shop, settle

# --- Two checkouts of one customer's credit ---------------------------------------------------------


def two_checkouts(race: Race, shop: Shop) -> None:
    """Of two books: else the second would wait for the first at the shelf already."""
    shop.stock("film", 10)
    race.stop("payments.ledger.post")  # both have read, priced and written; neither has taken the credit
    race.actor("a", lambda: shop.checkout("book", payment=with_credit(1000)).json())
    race.actor("b", lambda: shop.checkout("film", payment=with_credit(1000)).json())


@pytest.mark.parametrize("turns", orders("a", "a", "b", "b", alike=True))
def test_of_two_checkouts_with_the_same_credit_one_is_refused(race, shop, turns):
    grant(shop, 1000)
    two_checkouts(race, shop)
    answers = race.play(turns).values()
    assert sorted(answer.get("code", "placed") for answer in answers) == ["insufficient_store_credit", "placed"]
    assert (credit(shop), Order.objects.count()) == ((0, 1000), 1)
    assert sorted([shop.level("book"), shop.level("film")]) == [(10, 0), (10, 1)]


@pytest.mark.parametrize("turns", orders("a", "a", "b", "b", alike=True))
def test_two_checkouts_that_the_credit_suffices_for_are_both_placed(race, shop, turns):
    grant(shop, 2000)
    two_checkouts(race, shop)
    assert ["order" in answer for answer in race.play(turns).values()] == [True, True]
    assert credit(shop) == (0, 2000)


def without_the_condition(monkeypatch: pytest.MonkeyPatch) -> None:
    """The statement that takes credit does not ask whether the balance suffices."""
    condition = " AND account.balance_minor >= change.debit_minor"
    assert condition in ledger._DEBITED
    monkeypatch.setattr(ledger, "_DEBITED", ledger._DEBITED.replace(condition, ""))


def test_without_the_condition_the_database_still_refuses_the_second(race, shop, monkeypatch):
    grant(shop, 1000)
    without_the_condition(monkeypatch)
    two_checkouts(race, shop)
    race.play("a b a b")
    assert credit(shop) == (0, 1000)


def test_control_without_condition_and_constraint_the_same_credit_pays_twice(race, shop, monkeypatch, unguarded):
    grant(shop, 1000)
    unguarded.constraint("payments_account", "account_not_overdrawn")
    without_the_condition(monkeypatch)
    two_checkouts(race, shop)
    race.play("a b a b")
    assert credit(shop) == (-1000, 2000)


# --- Expiry and cancellation against payment --------------------------------------------------------


def hear(payment: dict[str, Any]) -> None:
    payments.sync_payment(payment["provider_reference"], by="webhook")


@pytest.fixture
def confirmable(shop: Shop) -> dict[str, Any]:
    """5.00 of credit are held for an order of 15.00 whose customer looks at the payment page."""
    grant(shop, 500)
    body = shop.checkout(payment=with_credit(500)).json()
    return {**body["payment"], "order": body["order"]["number"]}


def expiry_against_payment(race: Race, sandbox: Any, payment: dict[str, Any]) -> None:
    Order.objects.update(expires_at=Now())
    services.rearm()

    def pay() -> bool:
        paid = pay_in_browser(sandbox, payment)
        hear(payment)
        return paid

    race.stop("payments.gateway.cancel_intent", actor="expiry")
    race.stop("orders.services.cancelling.lock_order", at="after", actor="expiry")  # credit released, order open
    race.stop("payments.gateway.retrieve_intent", at="after", actor="customer")
    race.actor("expiry", expire)
    race.actor("customer", pay)


@pytest.mark.guard(9)
@pytest.mark.parametrize("turns", orders("expiry", "expiry", "expiry", "customer", "customer"))
def test_credit_of_an_order_that_is_paid_while_it_expires_is_spent_or_given_back(
    race, shop, sandbox, confirmable, turns
):
    expiry_against_payment(race, sandbox, confirmable)
    paid = race.play(turns)["customer"]
    settle()
    assert fate(shop, confirmable["order"]) == ("paid" if paid else "cancelled")
    assert credit(shop) == ((0, 0) if paid else (500, 0))


def cancel_against_webhook(race: Race, shop: Shop, payment: dict[str, Any]) -> None:
    race.stop("payments.services.attempts.lock_payment", at="after", actor="cancel")
    race.stop("orders.services.close_unpaid", actor="cancel")
    race.stop("payments.services.rereads.lock_payment", at="after", actor="webhook")
    race.actor("cancel", lambda: shop.post(f"/orders/{payment['order']}/cancel").json())
    race.actor("webhook", lambda: hear(payment))


@pytest.mark.parametrize("paid_before", [True, False], ids=["paid", "unpaid"])
@pytest.mark.parametrize("turns", orders("cancel", "cancel", "cancel", "webhook", "webhook"))
def test_credit_of_an_order_that_is_cancelled_while_the_news_come_is_spent_or_given_back(
    race, shop, sandbox, confirmable, *, turns, paid_before
):
    if paid_before:
        assert pay_in_browser(sandbox, confirmable)
    cancel_against_webhook(race, shop, confirmable)
    race.play(turns)
    settle()
    order = shop.order(confirmable["order"])
    held = {"paid": (0, 0), "cancelled": (500, 0)}  # cancelled with its money: all of it went back, the credit too
    assert credit(shop) == held[order["status"]]
    assert order["refund_status"] == ("refunded" if paid_before and order["status"] == "cancelled" else "none")


def without_asking_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payments, "cancel_at_provider", lambda number: Succeeded(None))


def ignoring_that_credit_was_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    real = payment_news._settle
    monkeypatch.setattr(
        payment_news, "_settle", lambda payment, *, credit_held, by: real(payment, credit_held=True, by=by)
    )


def spent_and_free() -> tuple[int, int]:
    """(credit that payments were paid with, credit that the customer can still spend)"""
    free = Account.objects.filter(kind="store_credit").aggregate(total=Sum("balance_minor"))["total"]
    return Payment.objects.aggregate(total=Sum("credit_captured_minor"))["total"], free


def test_who_does_not_ask_the_provider_first_is_caught_when_the_money_comes(
    race, shop, sandbox, confirmable, monkeypatch
):
    without_asking_the_provider(monkeypatch)
    expiry_against_payment(race, sandbox, confirmable)
    race.play("expiry expiry customer customer")
    settle()
    payment = Payment.objects.get()
    assert (payment.settling, payment.refunded_minor, spent_and_free()) == (False, 1000, (0, 500))


@pytest.mark.parametrize("who", ["expiry", "cancel"])
def test_control_a_success_that_ignores_what_was_given_back_is_paid_with_credit_that_is_free(
    race, shop, sandbox, confirmable, *, monkeypatch, who
):
    without_asking_the_provider(monkeypatch)
    ignoring_that_credit_was_given_back(monkeypatch)
    if who == "expiry":
        expiry_against_payment(race, sandbox, confirmable)
        race.play("expiry expiry customer customer")
    else:
        assert pay_in_browser(sandbox, confirmable)
        cancel_against_webhook(race, shop, confirmable)
        race.play("cancel cancel cancel webhook webhook")
    assert spent_and_free() == (500, 500)
