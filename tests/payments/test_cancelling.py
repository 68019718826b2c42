"""What ended here must not be payable at the provider, however late its opening or its cancellation got through."""

from dataclasses import replace
from typing import Any

import pytest
from django.db.models.functions import Now

from durability import services as durability
from durability.models import SagaRun
from orders import services as orders
from payments import gateway
from payments.errors import ProviderRefused
from payments.models import Payment
from payments.types import Intent
from tests.races import Killed, Race
from tests.shop import Shop, settle

CANCEL = "POST /v1/payment_intents/*/cancel"


def intent_status(payment: str) -> str:
    """Of the intent that carries our number; empty if the provider has none."""
    since = Payment.objects.get(pk=Payment.id_of(payment)).created_at
    intent = gateway.find_intent(payment, since=since)
    return intent.status if intent else ""


@pytest.mark.parametrize("kind", ["error_500", "error_500_after", "timeout_after"])
def test_a_cancellation_without_a_clear_answer_is_asked_again_and_gets_one(shop, sandbox, settings, kind):
    settings.PROVIDER_READ_TIMEOUT_S = 1
    body = shop.checkout().json()
    sandbox.control("POST", "faults", {"match": CANCEL, "kind": kind, "times": 1})
    shop.post(f"/orders/{body['order']['number']}/cancel")
    settle()
    assert shop.order(body["order"]["number"])["status"] == "cancelled"
    assert intent_status(body["payment"]["number"]) == "canceled"


def oversleep(race: Race, shop: Shop, **wish: Any) -> tuple[str, str]:
    """A worker sleeps between "sent" and the sending, until the order is cancelled; then it sends. (order, payment)"""
    body = shop.checkout(headers={"Prefer": "respond-async"}, **wish).json()
    order, payment = body["order"]["number"], body["payment"]["number"]
    race.stop("payments.gateway.create_intent", actor="sleeper")
    race.actor("sleeper", lambda: durability.resume_saga("orders.checkout", key=order))
    race.turn("sleeper")
    assert shop.post(f"/orders/{order}/cancel").json()["status"] == "cancelled"
    race.turn("sleeper")
    return order, payment


@pytest.fixture
def no_grace(settings) -> None:
    """A sent attempt that cannot be found counts as never made at once, not after two minutes."""
    settings.PROVIDER_LOOKUP_GRACE_S = 0


@pytest.mark.usefixtures("no_grace")
def test_an_intent_that_was_opened_after_its_cancellation_is_cancelled(race, shop):
    _, payment = oversleep(race, shop)
    settle(webhooks=False)
    assert intent_status(payment) == "canceled"
    assert SagaRun.objects.get(recipe="payments.close_intent").state == "completed"


@pytest.mark.usefixtures("no_grace")
def test_the_sleeper_may_have_lost_its_lease_then_the_provider_tells_of_the_intent(race, shop, monkeypatch):
    def dies(*_: object) -> None:
        raise Killed  # after the call, before it could write down what came of it

    with monkeypatch.context() as death:
        death.setattr("payments.services.record_opening", dies)
        _, payment = oversleep(race, shop)
    assert intent_status(payment) == "requires_payment_method"
    settle()
    assert intent_status(payment) == "canceled"


@pytest.mark.usefixtures("no_grace")
def test_the_closing_is_asked_for_until_the_provider_answers(race, shop, sandbox):
    sandbox.control("POST", "faults", {"match": CANCEL, "kind": "error_500", "times": 2})
    _, payment = oversleep(race, shop)
    settle(webhooks=False)
    assert intent_status(payment) == "canceled"


@pytest.mark.usefixtures("no_grace")
def test_one_that_was_confirmed_with_its_opening_is_refunded(race, shop):
    order, payment = oversleep(
        race, shop, payment={"method": "card", "payment_method": "pm_card_visa", "confirm": True}
    )
    settle()
    assert intent_status(payment) == "succeeded"
    assert shop.order(order)["refund_status"] == "refunded"
    assert shop.level() == (10, 0)


@pytest.mark.usefixtures("no_grace")
def test_control_without_the_closing_the_customer_could_still_pay(race, shop, monkeypatch):
    start = durability.start_saga
    monkeypatch.setattr(
        durability, "start_saga", lambda recipe, **how: recipe == "payments.close_intent" or start(recipe, **how)
    )
    _, payment = oversleep(race, shop)
    settle()
    assert intent_status(payment) == "requires_payment_method"


@pytest.mark.usefixtures("no_grace")
def test_one_that_comes_back_to_its_customer_while_it_is_closed_is_closed_again(race, shop, monkeypatch):
    """It was being processed when we asked, and had failed when we looked: it can be paid once more."""
    cancel = gateway.cancel_intent
    refused: list[str] = []

    def too_early(reference: str) -> Intent:
        if refused:
            return cancel(reference)
        refused.append(reference)
        raise ProviderRefused("payment_intent_unexpected_state", "it is being processed")

    monkeypatch.setattr(gateway, "cancel_intent", too_early)
    _, payment = oversleep(race, shop)
    settle(webhooks=False)
    assert (len(refused), intent_status(payment)) == (1, "canceled")


def test_an_attempt_that_is_processed_while_its_order_is_paid_another_way_is_closed_as_soon_as_it_can_be(
    shop, sandbox, monkeypatch
):
    body = shop.checkout().json()
    order, payment = body["order"]["number"], body["payment"]["number"]
    [charge] = sandbox.control("POST", "plant", {"kind": "missing_in_our_system"})["ids"]
    retrieve = gateway.retrieve_intent

    def refuses(reference: str) -> Intent:
        raise ProviderRefused("payment_intent_unexpected_state", f"{reference} is being processed")

    def processing(reference: str) -> Intent:
        intent = retrieve(reference)
        return intent if intent.status == "succeeded" else replace(intent, status="processing")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(gateway, "cancel_intent", refuses)
        meanwhile.setattr(gateway, "retrieve_intent", processing)
        orders.attach_payment(order_number=order, charge=charge, by="maria", why="the customer has paid twice")
        settle()
        assert shop.order(order)["status"] == "paid"
        assert Payment.objects.get(pk=Payment.id_of(payment)).status == "processing"
    SagaRun.objects.filter(state="running").update(available_at=Now())  # the customer's bank has declined it
    settle()
    assert intent_status(payment) == "canceled"
    assert Payment.objects.get(pk=Payment.id_of(payment)).status == "cancelled"
