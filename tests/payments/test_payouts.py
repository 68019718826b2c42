"""Payouts: what the provider sends to the operator's bank, with what it is made of."""

from typing import Any

import pytest
from django.db.models import Sum
from django.db.models.functions import Now

from durability.models import Message
from payments import gateway, services
from payments.errors import ProviderBusy
from payments.models import JournalEntry, Payout, PayoutHistory, PayoutTransaction, Posting
from payments.services import payouts
from tests.races import orders as every_order
from tests.shop import Shop, settle

NET = 1500 - 74


def pay_out(sandbox, **body: Any) -> Payout:
    (made,) = sandbox.control("POST", "payouts", {"include_pending": True, **body})["payouts"]
    settle()
    return Payout.objects.get(provider_reference=made["id"])


def decide(sandbox, payout: Payout, status: str) -> Payout:
    sandbox.control("POST", "payouts/outcome", {"payout": payout.provider_reference, "status": status})
    settle()
    payout.refresh_from_db()
    return payout


def account(kind: str) -> int:
    total: int | None = Posting.objects.filter(account__kind=kind).aggregate(total=Sum("amount_minor"))["total"]
    return total or 0


def test_a_payout_is_recorded_with_its_transactions_and_they_add_up(shop: Shop, sandbox):
    shop.bought()
    shop.bought()
    payout = pay_out(sandbox)
    assert (payout.status, payout.amount_minor, payout.currency, payout.automatic) == (
        "in_transit",
        2 * NET,
        "usd",
        True,
    )
    assert payout.listed_at
    rows = PayoutTransaction.objects.filter(payout=payout)
    assert rows.count() == 3  # its own beside the charges
    paid_out = rows.exclude(source=payout.provider_reference)
    assert paid_out.aggregate(net=Sum("net_minor"))["net"] == payout.amount_minor
    assert account("bank") == 0  # not there yet


def test_a_payout_that_arrives_is_posted_once(shop: Shop, sandbox):
    shop.bought()
    payout = decide(sandbox, pay_out(sandbox), "paid")
    for _ in range(3):
        services.sync_payout(payout.provider_reference, by="test")
    assert (account("bank"), account("provider_clearing")) == (NET, 0)
    assert JournalEntry.objects.filter(subject=payout.number).count() == 1
    assert Message.objects.filter(name="payments.payout_paid.v1").count() == 1
    assert list(payout.history.values_list("to_state", flat=True).order_by("pk")) == ["in_transit", "paid"]


@pytest.mark.parametrize("paid_first", [False, True])
def test_a_payout_that_fails_is_on_the_providers_balance_again(shop: Shop, sandbox, paid_first: bool):
    shop.bought()
    payout = pay_out(sandbox)
    if paid_first:
        decide(sandbox, payout, "paid")
    payout = decide(sandbox, payout, "failed")
    assert (payout.status, payout.failure_code) == ("failed", "account_closed")
    assert (account("bank"), account("provider_clearing")) == (0, NET)
    assert JournalEntry.objects.filter(subject=payout.number).count() == (2 if paid_first else 0)
    assert Message.objects.filter(name="payments.payout_failed.v1").count() == 1
    again = pay_out(sandbox)  # what came back goes out with the next one
    assert (again.amount_minor, again.transactions.count()) == (NET, 2)


def owed(shop: Shop, sandbox, minor: int) -> Payout:
    """What was earned is at our bank, and then an amount is given back: the provider takes it from there."""
    order = shop.bought()
    decide(sandbox, pay_out(sandbox), "paid")
    number = order["payments"][0]["number"]
    assert shop.post(f"/payments/{number}/refunds", {"reason": "damaged", "amount": minor}).status_code == 201
    settle()
    assert (account("bank"), account("provider_clearing")) == (NET, -minor)
    return pay_out(sandbox, debit_negative_balances=True)


def test_what_the_provider_takes_from_our_bank_is_a_payout_of_a_negative_amount(shop: Shop, sandbox):
    payout = owed(shop, sandbox, 500)
    assert (payout.amount_minor, payout.status) == (-500, "in_transit")
    paid_out = payout.transactions.exclude(source=payout.provider_reference)
    assert list(paid_out.values_list("reporting_category", "net_minor")) == [("refund", -500)]
    assert payout.transactions.aggregate(net=Sum("net_minor"))["net"] == 0
    payout = decide(sandbox, payout, "paid")
    services.sync_payout(payout.provider_reference, by="test")
    assert (account("bank"), account("provider_clearing")) == (NET - 500, 0)
    assert JournalEntry.objects.filter(subject=payout.number).count() == 1
    told = Message.objects.filter(name="payments.payout_paid.v1").latest("pk").payload
    assert (told["payout"], told["amount_minor"]) == (payout.number, -500)


@pytest.mark.parametrize("paid_first", [False, True])
def test_what_our_bank_does_not_let_be_taken_is_owed_again(shop: Shop, sandbox, paid_first: bool):
    payout = owed(shop, sandbox, 500)
    if paid_first:
        decide(sandbox, payout, "paid")
    payout = decide(sandbox, payout, "failed")
    assert (payout.status, payout.failure_code) == ("failed", "debit_not_authorized")
    assert (account("bank"), account("provider_clearing")) == (NET, -500)
    assert JournalEntry.objects.filter(subject=payout.number).count() == (2 if paid_first else 0)
    assert Message.objects.filter(name="payments.payout_failed.v1").latest("pk").payload["amount_minor"] == -500
    shop.bought()  # the next payout is the less
    assert pay_out(sandbox).amount_minor == NET - 500


def test_what_no_webhook_brought_is_found_by_the_recheck(shop: Shop, sandbox):
    shop.bought()
    payout = pay_out(sandbox)
    sandbox.control("POST", "payouts/outcome", {"payout": payout.provider_reference, "status": "paid"})
    Payout.objects.update(next_check_at=Now())
    services.recheck_due()
    payout.refresh_from_db()
    assert payout.status == "paid"


@pytest.mark.parametrize("turns", every_order("a", "a", "b", "b"))
def test_two_workers_record_a_new_payout_once(shop: Shop, sandbox, race, turns):
    shop.bought()
    (made,) = sandbox.control("POST", "payouts", {"include_pending": True})["payouts"]
    race.stop("payments.gateway.retrieve_payout", at="after")
    race.actor("a", lambda: payouts.sync_payout(made["id"], by="a"))
    race.actor("b", lambda: payouts.sync_payout(made["id"], by="b"))
    race.play(turns)
    payout = Payout.objects.get()
    assert (payout.transactions.count(), PayoutHistory.objects.count()) == (2, 1)


def test_a_list_of_transactions_that_broke_off_is_finished_later(shop: Shop, sandbox, monkeypatch):
    for _ in range(3):
        shop.bought()
    monkeypatch.setattr(payouts, "_BATCH", 2)
    (made,) = sandbox.control("POST", "payouts", {"include_pending": True})["payouts"]
    real = gateway.list_payout_transactions

    def broken(payout: str):
        rows = real(payout)
        yield next(rows)
        yield next(rows)
        raise ProviderBusy("the provider is tired")

    monkeypatch.setattr(gateway, "list_payout_transactions", broken)
    with pytest.raises(ProviderBusy):
        payouts.sync_payout(made["id"], by="test")
    assert (Payout.objects.get().listed_at, PayoutTransaction.objects.count()) == (None, 2)
    monkeypatch.setattr(gateway, "list_payout_transactions", real)
    settle()
    payout = Payout.objects.get()
    assert payout.listed_at
    assert payout.transactions.aggregate(net=Sum("net_minor"))["net"] == 0
