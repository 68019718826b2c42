"""The refund saga: every way in which a step can fail ends in the books, or on the operator's list; never in between."""

import time
from dataclasses import replace

import pytest
from django.db import transaction
from django.db.models.functions import Now

from durability import services as durability
from durability.models import SagaRun
from durability.types import Refused
from foundation.database import database_now
from foundation.errors import DomainError
from payments import gateway, services
from payments.locks import lock_refund
from payments.models import JournalEntry, Payment, Refund
from payments.services.refund_news import apply_refund
from payments.types import ProviderRefund
from tests.payments.books import assert_books_agree, balance
from tests.shop import Shop, settle


@pytest.fixture
def payment(shop) -> Payment:
    """A captured and sold payment of 15.00."""
    shop.bought()
    return Payment.objects.get()


def ask(shop: Shop, payment: Payment, amount: int = 500) -> Refund:
    answer = shop.post(f"/payments/{payment.number}/refunds", {"amount": amount, "reason": "a torn page"})
    return Refund.objects.get(pk=Refund.id_of(answer.json()["number"]))


def run_of(refund: Refund) -> SagaRun:
    return SagaRun.objects.get(recipe="payments.refund", key=refund.number)


def tried_often(refund: Refund) -> None:
    """As often as the machinery tries: the pauses are over at once."""
    for _ in range(10):
        SagaRun.objects.filter(key=refund.number, state__in=["running", "compensating"]).update(available_at=Now())
        settle(webhooks=False)


def refuses(*_: object, **__: object) -> Refused:
    return Refused("charge_not_refundable", "this card takes no refunds")


def breaks(*_: object, **__: object) -> None:
    raise RuntimeError("the worker has a bad minute")


def test_a_refusal_gives_back_what_was_held(shop, payment, monkeypatch):
    refund = ask(shop, payment)
    assert balance("refunds_in_flight") == -500
    monkeypatch.setattr(services, "refund_at_provider", refuses)
    settle()
    refund.refresh_from_db()
    assert (refund.status, refund.failure_code) == ("failed", "charge_not_refundable")
    assert run_of(refund).state == "compensated"
    assert balance("refunds_in_flight") == 0
    assert balance("merchant_payable") == -1500
    assert_books_agree(payment)


@pytest.mark.parametrize("step", ["refund_at_provider", "record_refund", "post_refund"])
def test_a_bad_minute_in_any_step_only_delays(shop, payment, monkeypatch, sandbox, step):
    before = sandbox.books()["refunded"].get("usd", 0)
    refund = ask(shop, payment)
    with monkeypatch.context() as minute:
        minute.setattr(services, step, breaks)
        settle(webhooks=False)
        assert run_of(refund).state == "running"
    tried_often(refund)
    refund.refresh_from_db()
    assert (refund.status, run_of(refund).state) == ("succeeded", "completed")
    assert sandbox.books()["refunded"]["usd"] == before + 500
    assert JournalEntry.objects.filter(kind="refund").count() == 1
    assert_books_agree(payment)


def test_an_undo_that_fails_is_tried_alarms_and_waits_for_an_operator(shop, payment, monkeypatch, caplog):
    refund = ask(shop, payment)
    monkeypatch.setattr(services, "refund_at_provider", refuses)
    with monkeypatch.context() as minute:
        minute.setattr(services, "release_refundable", breaks)
        tried_often(refund)
        run = run_of(refund)
        assert (run.state, run.steps.get(index=1).state) == ("compensation_failed", "failed")
        assert "a person must look" in caplog.text
    assert balance("refunds_in_flight") == -500  # nothing is given back that nobody decided on
    durability.retry_saga(run_id=run.pk, by="olga")
    settle()
    refund.refresh_from_db()
    assert (refund.status, run_of(refund).state) == ("failed", "compensated")
    assert balance("refunds_in_flight") == 0
    assert_books_agree(payment)


def test_a_posting_that_is_refused_leaves_the_paid_refund_as_it_is(shop, payment, monkeypatch):
    """Money that is gone is not taken back by undoing: the last step's undo leaves a mark, the first one's nothing."""
    refund = ask(shop, payment)

    def refused(*_: object, **__: object) -> None:
        raise DomainError("no")

    monkeypatch.setattr(services, "post_refund", refused)
    settle()
    refund.refresh_from_db()
    assert (refund.status, run_of(refund).state) == ("succeeded", "compensated")
    assert "not posted" in refund.failure_message
    assert_books_agree(payment)


def test_a_refund_whose_sending_was_skipped_waits_for_a_person_who_can_end_it(shop, payment, monkeypatch):
    refund = ask(shop, payment)
    with monkeypatch.context() as minute:
        minute.setattr(services, "refund_at_provider", breaks)
        settle(webhooks=False)
        durability.skip_saga_step(run_id=run_of(refund).pk, by="olga", reason="it hangs since noon")
        settle(webhooks=False)
    refund.refresh_from_db()
    assert (refund.status, run_of(refund).state) == ("processing", "completed")
    assert refund.person_needed_at
    assert balance("refunds_in_flight") == -500
    services.end_unanswered(refund.number, by="olga", why="it never left the house")
    refund.refresh_from_db()
    assert (refund.status, balance("refunds_in_flight")) == ("failed", 0)
    assert_books_agree(payment)


# --- Given up, and made after all -------------------------------------------------------------------


def given_up(shop: Shop, payment: Payment, sandbox, amount: int = 1000) -> Refund:
    """The provider made it, its answer was lost, and an operator turned the saga back."""
    refund = ask(shop, payment, amount)
    sandbox.control("POST", "faults", {"match": "POST /v1/refunds", "kind": "error_500_after", "times": 1})
    outcome = services.refund_at_provider(refund.number)
    assert type(outcome).__name__ == "Unknown"
    durability.compensate_saga(run_id=run_of(refund).pk, by="olga", reason="it hangs since noon")
    settle(webhooks=False)
    refund.refresh_from_db()
    assert (refund.status, run_of(refund).state) == ("failed", "compensated")
    return refund


def test_a_refund_that_was_given_up_and_made_after_all_is_in_the_books(shop, payment, sandbox):
    refund = given_up(shop, payment, sandbox)
    assert balance("merchant_payable") == -1500
    settle()  # the provider's event arrives
    refund.refresh_from_db()
    assert refund.status == "succeeded"
    assert balance("merchant_payable") == -500
    assert_books_agree(payment)
    assert Refund.objects.count() == 1


def test_even_where_it_was_refunded_a_second_time_meanwhile(shop, payment, sandbox):
    refund = given_up(shop, payment, sandbox, 400)
    other = ask(shop, payment, 1500)
    found = gateway.find_refund(refund.number, payment_intent=payment.provider_reference)
    assert found
    services.sync_refund(found.id, by="webhook")
    assert_books_agree(payment)
    assert payment.refunds_excess_minor == 400
    settle()  # the provider has 11.00 left, and refuses 15.00
    other.refresh_from_db()
    refund.refresh_from_db()
    assert (other.status, refund.status) == ("failed", "succeeded")
    assert_books_agree(payment)
    assert balance("merchant_payable") == -1100


def test_even_where_it_was_made_again_twice(shop, payment, sandbox):
    """The one between was given up, too, and made after all: it is recorded beside its successor."""
    given_up(shop, payment, sandbox, 300)
    first = Refund.objects.get()
    with transaction.atomic():
        number = services.refund_again(number=first.number, by="maria", why="again")
    between = Refund.objects.get(pk=Refund.id_of(number))
    sandbox.control("POST", "faults", {"match": "POST /v1/refunds", "kind": "error_500_after", "times": 1})
    services.refund_at_provider(between.number)
    durability.compensate_saga(run_id=run_of(between).pk, by="olga", reason="this one hangs, too")
    settle(webhooks=False)
    with transaction.atomic():
        services.refund_again(number=first.number, by="maria", why="once more")
    settle()
    assert list(Refund.objects.order_by("pk").values_list("status", flat=True)) == ["succeeded"] * 3
    assert balance("merchant_payable") == -600
    assert_books_agree(payment)


def test_news_that_are_older_than_a_failure_do_not_bring_it_back(shop, payment):
    """Two readers: the one who read `succeeded` applies it after the one who read `failed`."""
    refund = ask(shop, payment)
    settle()
    refund.refresh_from_db()
    news = gateway.retrieve_refund(refund.provider_reference or "")
    for status in ("failed", "succeeded", "pending"):
        with transaction.atomic():
            apply_refund(*lock_refund(refund.pk), replace(news, status=status), by="test")
    refund.refresh_from_db()
    assert refund.status == "failed"
    payment.refresh_from_db()
    assert (payment.refunded_minor, payment.refunds_committed_minor, payment.refunds_owed_minor) == (0, 0, 500)


# --- Never while disputed ---------------------------------------------------------------------------


@pytest.mark.guard(10)
def test_a_disputed_payment_is_not_refunded(shop, payment):
    Payment.objects.update(disputed_at=Now())
    answer = shop.post(f"/payments/{payment.number}/refunds", {"reason": "x"})
    assert (answer.status_code, answer.json()["code"]) == (409, "payment_disputed")
    answer = shop.post(f"/orders/{payment.reference}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "payment_disputed")
    assert shop.order(payment.reference)["status"] == "paid"
    Payment.objects.update(disputed_at=None)
    assert shop.post(f"/orders/{payment.reference}/ship").status_code == 200  # no cancellation hangs over it


@pytest.mark.guard(10)
def test_a_dispute_that_comes_before_the_sending_stops_the_refund(shop, payment, sandbox):
    before = sandbox.books()["refunded"]
    refund = ask(shop, payment)
    Payment.objects.update(disputed_at=Now())
    settle()
    refund.refresh_from_db()
    assert (refund.status, refund.failure_code, refund.first_sent_at) == ("failed", "payment_disputed", None)
    assert sandbox.books()["refunded"] == before
    assert_books_agree(payment)


@pytest.mark.guard(10)
def test_a_dispute_between_two_tries_stops_the_second_one(shop, payment, sandbox, settings):
    """The first try never arrived; the provider would take the second for new."""
    refund = ask(shop, payment)
    sandbox.control("POST", "faults", {"match": "POST /v1/refunds", "kind": "reset", "times": 1})
    assert type(services.refund_at_provider(refund.number)).__name__ == "Unknown"
    Payment.objects.update(disputed_at=Now())
    assert type(services.refund_at_provider(refund.number)).__name__ == "Unknown"  # perhaps it is only late
    settings.PROVIDER_LOOKUP_GRACE_S = 0
    settle()
    refund.refresh_from_db()
    assert (refund.status, refund.failure_code) == ("failed", "payment_disputed")
    assert gateway.find_refund(refund.number, payment_intent=payment.provider_reference) is None
    assert_books_agree(payment)


def test_a_dispute_that_was_lost_before_the_sending_stops_the_refund(shop, payment):
    refund = ask(shop, payment)
    Payment.objects.update(disputed_lost_minor=1200)
    settle()
    refund.refresh_from_db()
    assert (refund.status, refund.failure_code, refund.first_sent_at) == ("failed", "refund_exceeds_captured", None)


@pytest.mark.guard(10)
def test_what_a_lost_dispute_took_cannot_be_refunded(shop, payment):
    Payment.objects.update(disputed_lost_minor=1200)
    answer = shop.post(f"/payments/{payment.number}/refunds", {"amount": 301, "reason": "x"})
    assert (answer.status_code, answer.json()["code"]) == (409, "refund_exceeds_captured")
    assert shop.post(f"/payments/{payment.number}/refunds", {"reason": "x"}).json()["amount"] == 300


# --- Weeks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told_by", ["webhook", "re-check"])
def test_a_refund_that_takes_weeks_is_settled_by_either_news(shop, sandbox, told_by):
    body = {"method": "card", "payment_method": "pm_card_pendingRefund", "confirm": True}
    order = shop.checkout(payment=body).json()["order"]["number"]
    settle()
    payment = Payment.objects.get()
    refund = ask(shop, payment, 600)
    settle(webhooks=False)
    refund.refresh_from_db()
    assert refund.status == "pending"
    shown = shop.order(order)
    assert (shown["refund_status"], shown["payments"][0]["refund_status"]) == ("refunding", "refunding")
    assert refund.next_check_at is not None
    time.sleep(0.3)
    if told_by == "webhook":
        settle()
    else:
        Refund.objects.update(next_check_at=Now())
        services.recheck_due()
        settle(webhooks=False)
    refund.refresh_from_db()
    assert refund.status == "succeeded"
    assert shop.order(order)["refund_status"] == "partial"
    assert_books_agree(payment)


@pytest.mark.parametrize("status", ["requires_action", "pending"])
def test_what_waits_for_the_customer_or_the_bank_is_looked_at_until_it_ends(shop, payment, status):
    refund = ask(shop, payment)
    said = told(refund, status)
    assert (said.status, shop.order(payment.reference)["refund_status"]) == (status, "refunding")
    assert_books_agree(payment)
    for _ in range(5):  # weeks later
        Refund.objects.update(next_check_at=Now())
        services.rereads._due(Refund.objects.all(), services.rereads._open_pause_s)
        said.refresh_from_db()
        assert said.next_check_at is not None
    said = told(refund, "canceled")
    assert (said.status, shop.order(payment.reference)["refund_status"]) == ("cancelled", "none")
    assert_books_agree(payment)


def told(refund: Refund, status: str) -> Refund:
    """As if the provider had said so: the sandbox's refunds never wait for a customer."""
    news = ProviderRefund("re_slow", status, refund.amount_minor, "usd", "ch_1", "pi_1", {}, database_now(), "")
    with transaction.atomic():
        apply_refund(*lock_refund(refund.pk), news, by="test")
    refund.refresh_from_db()
    Refund.objects.filter(pk=refund.pk, next_check_at=None).exclude(status="cancelled").update(next_check_at=Now())
    return refund
