"""Refund against refund, and news against news: the same money is never given or taken twice."""

import pytest
from django.db import transaction

from durability.types import Succeeded
from foundation.errors import IllegalTransition
from payments import gateway, ledger, services
from payments.errors import RefundExceedsCaptured
from payments.models import JournalEntry, Payment, Refund
from tests.races import Race, orders
from tests.shop import settle

CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}


def unlocked(payment_id) -> Payment:
    """What `lock_payment` would be without its lock."""
    return Payment.objects.get(pk=payment_id)


# --- Refund against refund --------------------------------------------------------------------------


@pytest.fixture
def payment(shop) -> str:
    """A captured payment of 15.00."""
    number: str = shop.bought()["payments"][0]["number"]
    return number


def two_refunds(race: Race, payment: str, *, amount: int) -> None:
    def refund() -> str:
        with transaction.atomic():
            return services.request_refund(
                payment=payment, amount_minor=amount, reason="a torn page", requested_by="test", policy=None
            )

    race.stop("payments.services.refunds.lock_payment", at="after")
    race.actor("a", refund)
    race.actor("b", refund)


def committed(payment: str) -> int:
    return Payment.objects.get(pk=Payment.id_of(payment)).refunds_committed_minor


@pytest.mark.guard(10)
@pytest.mark.parametrize("turns", orders("a", "a", "b", "b", alike=True))
def test_of_two_refunds_that_together_exceed_the_capture_one_is_refused(race, payment, turns):
    two_refunds(race, payment, amount=1000)
    results = race.play(turns).values()
    assert sorted(type(result).__name__ for result in results) == ["RefundExceedsCaptured", "str"]
    assert (committed(payment), Refund.objects.count()) == (1000, 1)


@pytest.mark.parametrize("turns", orders("a", "a", "b", "b", alike=True))
def test_two_refunds_that_fit_both_happen(race, payment, turns, sandbox):
    two_refunds(race, payment, amount=700)
    assert all(isinstance(result, str) for result in race.play(turns).values())
    settle()
    assert set(Refund.objects.values_list("status", flat=True)) == {"succeeded"}
    assert Payment.objects.get(pk=Payment.id_of(payment)).refunded_minor == 1400


def test_the_second_refund_waits_for_the_first(race, payment):
    two_refunds(race, payment, amount=1000)
    assert race.turn("a") == "after payments.services.refunds.lock_payment"
    assert race.turn("b") == "waiting"


def test_without_the_lock_the_database_still_refuses_the_second_refund(race, payment, monkeypatch):
    monkeypatch.setattr("payments.services.refunds.lock_payment", unlocked)
    two_refunds(race, payment, amount=1000)
    results = race.play("a b a b")
    assert isinstance(results["b"], RefundExceedsCaptured)
    assert committed(payment) == 1000


def test_control_without_lock_and_constraint_more_is_given_back_than_was_taken(race, payment, monkeypatch, unguarded):
    monkeypatch.setattr("payments.services.refunds.lock_payment", unlocked)
    unguarded.constraint("payments_payment", "payment_refunds_within_captured")
    unguarded.constraint("payments_payment", "payment_refunds_within_collected")
    two_refunds(race, payment, amount=1000)
    race.play("a b a b")
    assert committed(payment) == 2000  # of 1500


# --- News against news ------------------------------------------------------------------------------


@pytest.fixture
def captured(shop) -> Payment:
    """The provider has the money, and nobody here has been told."""
    number = shop.checkout(headers={"Prefer": "respond-async"}, payment=CONFIRMED).json()["payment"]["number"]
    outcome = services.open_at_provider(number)
    assert isinstance(outcome, Succeeded)
    Payment.objects.update(provider_reference=outcome.value.id)
    return Payment.objects.get()


def two_tellers(race: Race, payment: Payment) -> None:
    race.stop("payments.services.rereads.lock_payment", at="after")
    reference = payment.provider_reference or ""
    race.actor("webhook", lambda: services.sync_payment(reference, by="webhook"))
    race.actor("recheck", lambda: services.sync_payment(reference, by="recheck"))


def captures() -> int:
    return JournalEntry.objects.filter(kind="capture").count()


@pytest.mark.parametrize("turns", orders("webhook", "webhook", "recheck", "recheck", alike=True))
def test_a_capture_that_two_tell_of_at_once_is_posted_once(race, captured, turns):
    two_tellers(race, captured)
    assert race.play(turns) == {"webhook": True, "recheck": True}
    assert captures() == 1


def test_without_the_lock_the_second_teller_fails_loudly(race, captured, monkeypatch):
    monkeypatch.setattr("payments.services.rereads.lock_payment", unlocked)
    two_tellers(race, captured)
    assert isinstance(race.play("webhook recheck webhook recheck")["recheck"], IllegalTransition)
    assert captures() == 1


def test_control_without_lock_guarded_update_and_unique_cause_the_money_is_booked_twice(
    race, captured, monkeypatch, unguarded
):
    def unguarded_move(payment, to, *, by, values, why="") -> None:
        Payment.objects.filter(pk=payment.pk).update(status=to, **values)

    once = "ON CONFLICT (key) DO NOTHING"
    assert once in ledger._POST
    monkeypatch.setattr("payments.services.rereads.lock_payment", unlocked)
    monkeypatch.setattr("payments.services.payment_news._move", unguarded_move)
    monkeypatch.setattr(ledger, "_POST", ledger._POST.replace(once, ""))
    unguarded.unique("payments_journalentry", "journal_entry_once_per_cause")
    two_tellers(race, captured)
    race.play("webhook recheck webhook recheck")
    assert captures() == 2


@pytest.mark.parametrize("turns", orders("webhook", "webhook", "cancel"))
def test_news_that_were_read_before_a_cancellation_do_not_open_the_payment_again(race, shop, turns):
    body = shop.checkout().json()
    reference = body["payment"]["provider_reference"]
    race.stop("payments.services.rereads.lock_payment", at="before", actor="webhook")  # has read: still confirmable
    race.actor("webhook", lambda: services.sync_payment(reference, by="webhook"))
    race.actor("cancel", lambda: shop.post(f"/orders/{body['order']['number']}/cancel").status_code)
    assert race.play(turns) == {"webhook": True, "cancel": 200}
    settle()
    assert Payment.objects.get().status == "cancelled"
    assert gateway.retrieve_intent(reference).status == "canceled"


def test_control_news_that_ignore_what_became_of_the_payment_are_refused_by_the_table_of_states(
    race, shop, monkeypatch
):
    body = shop.checkout().json()
    monkeypatch.setattr("payments.services.payment_news.PAYMENT_LIVE", ("pending", "cancelled"))
    race.stop("payments.services.rereads.lock_payment", at="before", actor="webhook")
    race.actor("webhook", lambda: services.sync_payment(body["payment"]["provider_reference"], by="webhook"))
    race.actor("cancel", lambda: shop.post(f"/orders/{body['order']['number']}/cancel").status_code)
    assert isinstance(race.play("webhook cancel webhook")["webhook"], IllegalTransition)
