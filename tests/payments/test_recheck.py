"""Re-checks: what is open first, what has ended for 45 days, a bounded number each time; and the command."""

import io
import time
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from foundation.database import database_now
from payments import gateway
from payments import services as payments
from payments.models import Payment, ProviderTry, Refund
from payments.services import rereads
from tests.payments.test_contradictions import at_stripe
from tests.payments.test_contradictions import pay_in_browser as pay
from tests.shop import settle

CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}


def due() -> None:
    Payment.objects.filter(next_check_at__isnull=False).update(next_check_at=Now())
    Refund.objects.filter(next_check_at__isnull=False).update(next_check_at=Now())


def command(*arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    try:
        call_command("recheck_payments", *arguments, stdout=out)
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue()
    raise AssertionError("the command says nothing to a scheduler")


@pytest.mark.guard(12)
def test_a_success_whose_webhook_was_lost_is_found(shop, sandbox):
    body = shop.checkout().json()
    pay(sandbox, body["payment"])
    due()
    assert payments.recheck_due() == 1
    settle(webhooks=False)
    assert shop.order(body["order"]["number"])["status"] == "paid"


@pytest.mark.guard(11)
def test_a_refund_that_failed_late_is_found_without_a_webhook(shop, sandbox):
    answer = shop.checkout(payment={"method": "card", "payment_method": "pm_card_refundFail", "confirm": True}).json()
    settle()
    shop.post(f"/payments/{answer['payment']['number']}/refunds", {"reason": "x"})
    settle(webhooks=False)
    refund = Refund.objects.get()
    assert refund.status == "succeeded"
    assert refund.next_check_at is not None
    reference = refund.provider_reference or ""
    for _ in range(100):
        if gateway.retrieve_refund(reference).status == "failed":
            break
    due()
    payments.recheck_due()
    assert Refund.objects.get().status == "failed"
    assert Payment.objects.get().refunds_committed_minor == 0


def test_what_has_ended_is_read_with_growing_pauses_and_no_longer_than_45_days(shop):
    shop.bought()
    payment = Payment.objects.get()
    pauses = []
    while payment.next_check_at is not None:
        pauses.append(round((payment.next_check_at - database_now()) / timedelta(hours=1)))
        due()
        payments.recheck_due()
        payment.refresh_from_db()
    assert pauses == [6, 24, 96, 384]
    refund_pauses = []
    shop.post(f"/payments/{payment.number}/refunds", {"reason": "x"})
    settle()
    refund = Refund.objects.get()
    while refund.next_check_at is not None:
        refund_pauses.append(round((refund.next_check_at - database_now()) / timedelta(hours=1)))
        due()
        payments.recheck_due()
        refund.refresh_from_db()
    assert refund_pauses == [6, 12, 24, 48, 96, 192, 384]
    assert 30 * 24 < sum(refund_pauses) < 45 * 24


def test_a_pile_of_what_has_ended_does_not_hold_up_what_is_open(shop, settings, monkeypatch):
    settings.SETTLED_RECHECK_BATCH = 2
    for _ in range(3):
        shop.bought()
    body = shop.checkout().json()
    due()
    read: list[str] = []
    real = rereads.read_payment

    def noting(payment: Payment, **how: Any) -> bool:
        read.append(payment.number)
        return real(payment, **how)

    monkeypatch.setattr(rereads, "read_payment", noting)
    payments.recheck_due()
    assert len(read) == 3
    assert read[0] == body["payment"]["number"]


def test_a_slow_provider_holds_a_pass_for_a_bounded_time_and_the_rest_is_due_at_once(shop, settings, monkeypatch):
    for _ in range(3):
        shop.checkout()
    due()
    settings.WORK_FOR_S = 0.6
    read: list[str] = []

    def slowly(payment: Payment, **how: Any) -> bool:
        read.append(payment.number)
        time.sleep(0.4)
        return True

    monkeypatch.setattr(rereads, "read_payment", slowly)
    assert payments.recheck_due() == len(read) == 1
    assert sorted(Payment.objects.values_list("checks", flat=True)) == [0, 0, 1]
    payments.recheck_due()
    payments.recheck_due()
    assert len(set(read)) == 3


def test_what_never_reached_the_provider_is_not_read(shop):
    body = shop.checkout(headers={"Prefer": "respond-async"}).json()
    shop.post(f"/orders/{body['order']['number']}/cancel")
    assert Payment.objects.get().next_check_at is None


def test_an_open_payment_is_read_with_doubling_pauses(shop):
    shop.checkout()
    payment = Payment.objects.get()
    pauses = []
    for _ in range(4):
        due()
        payments.recheck_due()
        payment.refresh_from_db()
        assert payment.next_check_at is not None
        pauses.append(round((payment.next_check_at - database_now()).total_seconds()))
    assert pauses == [60, 120, 240, 480]


# --- The command ------------------------------------------------------------------------------------


def test_the_command_reads_everything_open_now(shop, sandbox):
    first, second = shop.checkout().json(), shop.checkout().json()
    pay(sandbox, first["payment"])
    pay(sandbox, second["payment"])
    assert command() == (0, "2 read, 0 without an answer, 0 need a person\n")
    settle(webhooks=False)
    assert {shop.order(one["order"]["number"])["status"] for one in (first, second)} == {"paid"}
    assert command() == (0, "0 read, 0 without an answer, 0 need a person\n")


def test_the_command_tells_a_scheduler_what_is_unsettled(shop, sandbox):
    shop.checkout()
    sandbox.control("POST", "faults", {"match": "GET /v1/payment_intents", "kind": "error_500", "times": 1})
    code, said = command()
    assert (code, said) == (1, "1 read, 1 without an answer, 0 need a person\n")
    assert ProviderTry.objects.get().asked == "read it"
    Payment.objects.update(provider_reference="pi_nobody")
    assert command() == (1, "1 read, 0 without an answer, 1 need a person\n")


def test_the_command_reads_what_it_is_named(shop, sandbox):
    body = shop.checkout().json()
    pay(sandbox, body["payment"])
    number = body["payment"]["number"]
    assert command(number) == (0, f"{number}: succeeded\n")
    with pytest.raises(CommandError) as refused:
        call_command("recheck_payments", "pay_nonsense")
    assert refused.value.returncode == 2


def test_what_contradicts_us_says_so_to_who_asks(shop, sandbox):
    body = shop.checkout().json()
    at_stripe(sandbox, f"/v1/payment_intents/{body['payment']['provider_reference']}", amount=1400)
    with pytest.raises(CommandError) as refused:
        call_command("recheck_payments", body["payment"]["number"])
    assert refused.value.returncode == 2
