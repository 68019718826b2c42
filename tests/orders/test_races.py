"""Expiry against payment, cancel against webhook, cancel against shipping: an order is sold or it is not.

Whoever wins, the two ends are the same: paid, with the money here and the stock gone; or cancelled, with nobody able
to pay and the stock back. `fate` says which, and fails on anything in between.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import requests
from django.db.models.functions import Now

from durability import services as durability
from durability.models import SagaRun
from durability.types import Succeeded
from orders import services
from orders.models import Order
from payments import gateway
from payments import selectors as payment_reads
from payments import services as payments
from payments.models import JournalEntry, Payment, Refund
from tests.races import orders
from tests.shop import Shop, settle

CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}


def fate(shop: Shop, number: str) -> str:
    """Once everything has come to rest: `paid` or `cancelled`, with money and stock where that says."""
    order = shop.order(number)
    [payment] = order["payments"]
    intent = gateway.find_intent(payment["number"], since=Payment.objects.get().created_at)
    found = {
        "order": order["status"],
        "refund": order["refund_status"],
        "payment": payment["status"],
        "provider": intent.status if intent else "canceled",  # or never heard of: nobody can pay either way
        "stock": shop.level(),
        "captures": JournalEntry.objects.filter(kind="capture").count(),
        "sales": JournalEntry.objects.filter(kind="sale").count(),
    }
    paid = {"order": "paid", "refund": "none", "payment": "succeeded", "provider": "succeeded", "stock": (9, 0)}
    cancelled = {"order": "cancelled", "refund": "none", "payment": "cancelled", "provider": "canceled"}
    assert found in (
        paid | {"captures": 1, "sales": 1},
        cancelled | {"stock": (10, 0), "captures": 0, "sales": 0},
    ), found
    return str(order["status"])


def resume(recipe: str) -> None:
    """What a worker does about the runs of one recipe."""
    for key in SagaRun.objects.filter(recipe=recipe).values_list("key", flat=True):
        durability.resume_saga(recipe, key=key)


def pay_in_browser(sandbox: Any, payment: dict[str, Any]) -> bool:
    """What Stripe.js does. False where the provider refuses: the intent is cancelled."""
    answer = requests.post(
        f"{sandbox.url}/v1/payment_intents/{payment['provider_reference']}/confirm",
        data={"client_secret": payment["client_secret"], "payment_method": "pm_card_visa"},
        headers={"Authorization": "Bearer pk_test_sandbox"},
        timeout=10,
    )
    return answer.status_code == 200


# --- Expiry against payment -------------------------------------------------------------------------


def expire() -> None:
    services.expire_due()
    resume("orders.cancel_unpaid")


@pytest.fixture
def confirmable(shop: Shop) -> dict[str, Any]:
    """An order whose time is over while its customer still looks at the payment page: the payment's document."""
    body = shop.checkout().json()
    Order.objects.update(expires_at=Now())
    services.rearm()
    return {**body["payment"], "order": body["order"]["number"]}


def expiry_against_browser(race, sandbox, payment: dict[str, Any]) -> None:
    def pay() -> bool:
        paid = pay_in_browser(sandbox, payment)
        payments.sync_payment(payment["provider_reference"], by="webhook")
        return paid

    race.stop("payments.gateway.cancel_intent", actor="expiry")
    race.stop("orders.services.cancelling.lock_order", at="after", actor="expiry")  # money read, order not closed yet
    race.stop("payments.gateway.retrieve_intent", at="after", actor="customer")  # paid or not: not written down yet
    race.actor("expiry", expire)
    race.actor("customer", pay)


@pytest.mark.guard(9)
@pytest.mark.parametrize("turns", orders("expiry", "expiry", "expiry", "customer", "customer"))
def test_a_customer_who_pays_while_the_order_expires_has_paid_or_cannot(race, shop, sandbox, confirmable, turns):
    expiry_against_browser(race, sandbox, confirmable)
    paid = race.play(turns)["customer"]
    settle()
    assert fate(shop, confirmable["order"]) == ("paid" if paid else "cancelled")


def test_control_an_expiry_that_does_not_ask_the_provider_first_leaves_money_without_an_order(
    race, shop, sandbox, confirmable, monkeypatch
):
    monkeypatch.setattr(payments, "cancel_at_provider", lambda number: Succeeded(None))
    monkeypatch.setattr(
        "payments.services.payment_news.durability.publish", lambda event: None
    )  # nor refunds itself after
    expiry_against_browser(race, sandbox, confirmable)
    race.play("expiry expiry customer customer")
    assert gateway.retrieve_intent(confirmable["provider_reference"]).status == "succeeded"
    assert shop.order(confirmable["order"])["status"] == "cancelled"


# An order that never reached the provider is expired by one statement, while a worker is about to send it.


@pytest.fixture
def unsent(shop: Shop) -> str:
    number: str = shop.checkout(headers={"Prefer": "respond-async"}, payment=CONFIRMED).json()["order"]["number"]
    Order.objects.update(expires_at=Now())
    services.rearm()
    return number


def expiry_against_sending(race) -> None:
    race.stop("orders.services.expiry.payments.cancel_never_sent", at="after", actor="expiry")  # not committed yet
    race.stop("payments.services.attempts._mark_sent", actor="sender")  # has read a live payment
    race.stop("payments.gateway.create_intent", actor="sender")
    race.actor("expiry", expire)
    race.actor("sender", lambda: resume("orders.checkout"))


@pytest.mark.parametrize("turns", orders("expiry", "expiry", "sender", "sender", "sender"))
def test_an_order_that_expires_while_it_is_sent_is_sent_or_expired(race, shop, unsent, turns):
    expiry_against_sending(race)
    race.play(turns)
    settle()
    fate(shop, unsent)


def test_control_a_sender_that_does_not_look_again_charges_for_an_expired_order(race, shop, unsent, monkeypatch):
    def mark_without_looking(payment: Payment) -> bool:
        return bool(Payment.objects.filter(pk=payment.pk).update(first_sent_at=Now()))

    monkeypatch.setattr("payments.services.attempts._mark_sent", mark_without_looking)
    expiry_against_sending(race)
    race.play("sender expiry expiry sender sender")
    settle()
    with pytest.raises(AssertionError, match="succeeded"):
        fate(shop, unsent)
    assert Refund.objects.get().status == "succeeded"  # the last net caught it; the provider's fee is gone


# --- Cancel against webhook -------------------------------------------------------------------------


def cancel_against_webhook(race, shop: Shop, sandbox, *, paid_before: bool) -> dict[str, Any]:
    """The customer cancels what was just paid, or is being paid; the payment's document."""
    body = shop.checkout().json()
    payment = {**body["payment"], "order": body["order"]["number"]}
    if paid_before:
        assert pay_in_browser(sandbox, payment)

    def hear() -> None:
        payments.sync_payment(payment["provider_reference"], by="webhook")

    race.stop("payments.services.attempts.lock_payment", at="after", actor="cancel")
    race.stop("orders.services.close_unpaid", actor="cancel")
    race.stop("payments.services.rereads.lock_payment", at="after", actor="webhook")
    race.actor("cancel", lambda: shop.post(f"/orders/{payment['order']}/cancel").json())
    race.actor("webhook", hear)
    return payment


@pytest.mark.parametrize("turns", orders("cancel", "cancel", "cancel", "webhook", "webhook"))
def test_a_cancellation_and_the_news_of_the_payment_agree(race, shop, sandbox, turns):
    payment = cancel_against_webhook(race, shop, sandbox, paid_before=True)
    answer = race.play(turns)["cancel"]
    settle()
    if "code" in answer:  # the payment was faster
        assert answer["code"] == "order_already_paid"
        assert fate(shop, payment["order"]) == "paid"
    else:  # the order was cancelled with its money: all of it goes back
        order = shop.order(payment["order"])
        assert (order["status"], order["refund_status"], shop.level()) == ("cancelled", "refunded", (10, 0))


@pytest.mark.parametrize("turns", orders("cancel", "cancel", "cancel", "webhook", "webhook"))
def test_a_cancellation_and_news_of_an_unpaid_payment_agree(race, shop, sandbox, turns):
    payment = cancel_against_webhook(race, shop, sandbox, paid_before=False)
    assert race.play(turns)["cancel"]["status"] == "cancelled"
    settle()
    assert fate(shop, payment["order"]) == "cancelled"


def test_without_the_payments_lock_the_guarded_update_still_holds(race, shop, sandbox, monkeypatch):
    def unlocked(payment_id) -> Payment:
        return Payment.objects.get(pk=payment_id)

    monkeypatch.setattr("payments.services.attempts.lock_payment", unlocked)
    monkeypatch.setattr("payments.services.rereads.lock_payment", unlocked)
    payment = cancel_against_webhook(race, shop, sandbox, paid_before=True)
    assert race.play("cancel webhook webhook cancel cancel")["cancel"]["code"] == "order_already_paid"
    settle()
    assert fate(shop, payment["order"]) == "paid"


def test_control_a_cancellation_that_does_not_look_at_the_money_again_undoes_a_sale(race, shop, sandbox, monkeypatch):
    blind = SimpleNamespace(open_attempts=payment_reads.open_attempts, payments_of=lambda numbers: {numbers[0]: []})
    monkeypatch.setattr("orders.services.cancelling.payment_reads", blind)
    payment = cancel_against_webhook(race, shop, sandbox, paid_before=True)
    race.play("cancel webhook cancel webhook cancel")
    settle()
    with pytest.raises(AssertionError, match="refunded"):
        fate(shop, payment["order"])


# --- Cancel against shipping ------------------------------------------------------------------------


def cancel_against_ship(race, shop: Shop) -> str:
    number = str(shop.bought()["number"])
    race.stop("orders.services.cancelling.lock_order", at="after", actor="cancel")
    race.stop("orders.services.fulfilment.lock_order", at="after", actor="ship")
    for act in ("cancel", "ship"):
        race.actor(act, lambda act=act: shop.post(f"/orders/{number}/{act}").status_code)
    return number


@pytest.mark.parametrize("turns", orders("cancel", "cancel", "ship", "ship"))
def test_what_is_cancelled_does_not_leave_the_house_and_what_left_is_not_cancelled(race, shop, turns):
    number = cancel_against_ship(race, shop)
    results = race.play(turns)
    assert sorted(results.values()) == [200, 409]
    settle()
    assert shop.order(number)["status"] == ("cancelled" if results["cancel"] == 200 else "shipped")


def test_control_without_the_orders_lock_the_refunded_book_is_shipped(race, shop, monkeypatch):
    def unlocked(number: str) -> Order:
        return Order.objects.get(pk=Order.id_of(number))

    for module in ("cancelling", "fulfilment"):
        monkeypatch.setattr(f"orders.services.{module}.lock_order", unlocked)
    number = cancel_against_ship(race, shop)
    assert race.play("cancel ship cancel ship") == {"cancel": 200, "ship": 200}
    settle()
    assert (shop.order(number)["status"], shop.order(number)["refund_status"]) == ("shipped", "refunded")


# --- Attempt against attempt ------------------------------------------------------------------------


def attempt_against_attempt(race, shop: Shop) -> str:
    """The customer pressed "pay again" in two windows."""
    number = str(shop.checkout().json()["order"]["number"])

    def attempt(key: str) -> int:
        path = f"/api/v1/orders/{number}/payments"
        answer = shop.storefront.post(path, CONFIRMED, format="json", headers={"Idempotency-Key": key})
        return int(answer.status_code)

    race.stop("orders.services.record_attempt")  # the earlier attempt is cancelled, the new one not recorded
    race.stop("payments.gateway.create_intent")
    for name in ("a", "b"):
        race.actor(name, lambda name=name: attempt(name))
    return number


@pytest.mark.guard(5)
@pytest.mark.parametrize("turns", orders("a", "a", "a", "b", "b", "b", alike=True))
def test_of_two_new_attempts_one_goes_to_the_provider(race, shop, turns):
    number = attempt_against_attempt(race, shop)
    assert sorted(race.play(turns).values()) == [201, 409]
    settle()
    assert sorted(Payment.objects.values_list("status", flat=True)) == ["cancelled", "succeeded"]
    assert (shop.order(number)["status"], shop.level()) == ("paid", (9, 0))


def test_control_without_the_one_live_attempt_the_customer_is_charged_twice(race, shop, unguarded):
    unguarded.unique("payments_payment", "payment_one_live_attempt_per_reference")
    attempt_against_attempt(race, shop)
    race.play("a b a b a b")
    assert Payment.objects.filter(status="succeeded").count() == 2
