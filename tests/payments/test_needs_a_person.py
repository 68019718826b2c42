"""After 23 hours nothing is sent again: it is looked up, and what cannot be settled waits for a person, with what was tried."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from durability.models import SagaRun
from foundation.errors import IllegalTransition
from payments import gateway, selectors
from payments import services as payments
from payments.models import Payment, PaymentHistory, ProviderTry, Refund
from payments.services import tries as tries_of_ours
from payments.services.decisions import NothingToDecide
from tests.shop import Shop, settle

CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}
INTENTS, REFUNDS = "POST /v1/payment_intents", "POST /v1/refunds"
YESTERDAY = timedelta(hours=23, minutes=1)


def fault(sandbox, match: str, kind: str, times: int = 1) -> None:
    sandbox.control("POST", "faults", {"match": match, "kind": kind, "times": times})


def charges(sandbox) -> int:
    count: int = sandbox.control("GET", "books")["charges"]
    return count


def tries(number: str) -> set[tuple[str, str]]:
    return {(one.asked, one.answer) for one in selectors.tries_of(number)}


@pytest.fixture
def lost_payment(shop: Shop, sandbox, settings) -> Payment:
    """Sent and never answered; the provider never made it, and a day went by while it was away."""
    settings.PROVIDER_READ_TIMEOUT_S = 1
    fault(sandbox, INTENTS, "reset")
    shop.checkout(payment=CONFIRMED)
    assert Payment.objects.get().status == "unknown"
    Payment.objects.update(first_sent_at=Now() - YESTERDAY)
    return Payment.objects.get()


@pytest.fixture
def lost_refund(shop: Shop, sandbox) -> Refund:
    number = shop.bought()["payments"][0]["number"]
    fault(sandbox, REFUNDS, "reset")
    shop.post(f"/payments/{number}/refunds", {"amount": 500, "reason": "a torn page"})
    # The worker's one try, and no more before a day has gone by.
    from durability import services as durability

    durability.resume_saga("payments.refund", key=Refund.objects.get().number)
    refund = Refund.objects.get()
    assert (refund.status, refund.provider_reference) == ("processing", None)
    Refund.objects.update(first_sent_at=Now() - YESTERDAY)
    return Refund.objects.get()


@pytest.mark.guard(3)
def test_a_payment_is_not_sent_again_after_23_hours_but_looked_up(shop, sandbox, lost_payment, monkeypatch):
    sent = []
    monkeypatch.setattr(gateway, "create_intent", lambda **asked: sent.append(asked))
    before = charges(sandbox)
    settle()
    assert sent == []
    assert charges(sandbox) == before
    payment = Payment.objects.get()
    assert payment.status == "unknown"  # never failed
    assert payment.person_needed_at is not None
    assert "23 hours" in payment.person_needed_why
    assert SagaRun.objects.get(recipe="orders.checkout").state == "completed"
    assert tries(payment.number) == {
        ("sent it under its own number", "no answer from the provider"),
        ("looked it up by its number", "the provider lists nothing under this number"),
    }
    assert selectors.needing_a_person() == {"payment": 1, "refund": 0}


def test_one_that_the_provider_has_is_found_after_23_hours(shop, sandbox):
    fault(sandbox, INTENTS, "error_500_after")
    answer = shop.checkout(payment=CONFIRMED)
    Payment.objects.update(first_sent_at=Now() - YESTERDAY)
    before = charges(sandbox)
    settle(webhooks=False)
    assert shop.order(answer.json()["order"]["number"])["status"] == "paid"
    assert charges(sandbox) == before
    assert selectors.needing_a_person() == {"payment": 0, "refund": 0}


def test_it_comes_off_the_list_by_itself_once_the_provider_lists_it(shop, sandbox, lost_payment):
    settle()
    gateway.create_intent(  # the request was on its way all the time
        number=lost_payment.number,
        amount_minor=1500,
        currency="usd",
        metadata=payments.attempts.metadata(lost_payment),
        payment_method="pm_card_visa",
        confirm=True,
    )
    Payment.objects.update(next_check_at=Now())
    payments.recheck_due()
    payment = Payment.objects.get()
    assert (payment.status, payment.person_needed_at, payment.person_needed_why) == ("succeeded", None, "")


def test_a_person_ends_what_was_never_made(shop, lost_payment):
    settle()
    told = payments.end_unanswered(lost_payment.number, by="mia", why="Stripe's support says so")
    assert "never made" in told
    payment = Payment.objects.get()
    assert (payment.status, payment.person_needed_at) == ("cancelled", None)
    last = PaymentHistory.objects.latest("id")
    assert (last.to_state, last.by, last.why) == ("cancelled", "mia", "Stripe's support says so")
    with pytest.raises(NothingToDecide):
        payments.end_unanswered(lost_payment.number, by="mia", why="again")


def test_ending_it_asks_the_provider_once_more(shop, sandbox, lost_payment):
    settle()
    gateway.create_intent(
        number=lost_payment.number,
        amount_minor=1500,
        currency="usd",
        metadata=payments.attempts.metadata(lost_payment),
        payment_method="pm_card_visa",
        confirm=True,
    )
    assert "knows it after all" in payments.end_unanswered(lost_payment.number, by="mia", why="I think so")
    assert Payment.objects.get().status == "succeeded"


@pytest.mark.guard(3)
def test_a_refund_is_not_sent_again_after_23_hours(shop, sandbox, lost_refund, monkeypatch):
    sent = []
    monkeypatch.setattr(gateway, "create_refund", lambda **asked: sent.append(asked))
    settle()
    assert sent == []
    refund = Refund.objects.get()
    assert (refund.status, refund.person_needed_at is not None) == ("processing", True)
    assert Payment.objects.get().refunds_committed_minor == 500  # held until somebody knows
    assert selectors.needing_a_person() == {"payment": 0, "refund": 1}
    assert ("looked it up by its number", "the provider lists nothing under this number") in tries(refund.number)


def test_a_person_ends_a_refund_that_was_never_made_and_its_amount_is_free_again(shop, lost_refund):
    settle()
    payments.end_unanswered(lost_refund.number, by="mia", why="not in the dashboard")
    settle()
    assert Refund.objects.get().status == "failed"
    assert Payment.objects.get().refunds_committed_minor == 0
    again = shop.post(f"/payments/{Payment.objects.get().number}/refunds", {"amount": 500, "reason": "anew"})
    assert again.status_code == 201
    settle()
    assert Payment.objects.get().refunded_minor == 500


def test_settled_by_hand_says_who_and_why_and_changes_nothing_else(shop):
    payment = Payment.objects.get(reference=shop.bought()["number"])
    tries_of_ours.need_person(payment, "the provider does not know it any more")
    payments.settled_by_hand(payment.number, by="mia", why="it was deleted there by mistake")
    payment.refresh_from_db()
    assert (payment.status, payment.person_needed_at) == ("succeeded", None)
    assert payment.history.latest("id").why == "settled by hand: it was deleted there by mistake"


def test_what_is_open_and_unanswered_is_ended_and_not_only_taken_off_the_list(shop, lost_refund):
    """Off the list nobody would look at it any more, and its amount would be held for ever."""
    settle()
    with pytest.raises(IllegalTransition, match="end it"):
        payments.settled_by_hand(lost_refund.number, by="mia", why="paid by bank transfer")
    assert selectors.needing_a_person() == {"payment": 0, "refund": 1}


def test_an_hour_without_a_provider_is_one_line_of_tries(shop, sandbox, settings):
    settings.PROVIDER_READ_TIMEOUT_S = 1
    fault(sandbox, INTENTS, "reset", times=5)
    shop.checkout(payment=CONFIRMED)
    settle(webhooks=False)
    number = Payment.objects.get().number
    sent = ProviderTry.objects.get(subject=number, asked="sent it under its own number")
    assert sent.times == 5
    assert sent.first_at < sent.last_at


def test_a_payment_that_the_provider_does_not_know_any_more_needs_a_person(shop, sandbox):
    body = shop.checkout().json()
    Payment.objects.update(provider_reference="pi_nobody", next_check_at=Now())
    payments.recheck_due()
    payment = Payment.objects.get()
    assert (payment.status, payment.person_needed_at is not None) == ("pending", True)
    assert "pi_nobody" in payment.person_needed_why
    assert body["payment"]["number"] == payment.number
