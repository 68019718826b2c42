"""Loyalty points: earned with the sale, gone with the refund, never more taken back than given."""

import pytest
from django.db import IntegrityError, transaction
from hypothesis import given
from hypothesis import strategies as st

from payments import ledger, services
from payments.models import Account, JournalEntry, Payment, Posting
from payments.services import loyalty
from tests.credit import CARD, grant, payable, points, with_credit
from tests.shop import Shop, open_shop, settle


@pytest.fixture
def shop(transactional_db, valkey, sandbox) -> Shop:
    """One point for each dollar; a book at 15.00 USD."""
    sandbox.control("POST", "webhooks", {"mode": "drop"})
    shop = open_shop(loyalty_rate_bp=10_000)
    shop.stock("book", 10)
    return shop


def refund(shop: Shop, order: dict, amount: int) -> None:
    number = order["payments"][0]["number"]
    assert shop.post(f"/payments/{number}/refunds", {"amount": amount, "reason": "a torn page"}).status_code == 201
    settle()


def test_a_sale_earns_points_and_refunds_take_their_share_back(shop):
    order = shop.bought(quantity=2)
    assert points(shop) == 30
    held = []
    for amount in (100, 150, 250, 2500):
        refund(shop, order, amount)
        held.append(points(shop))
    assert held == [29, 28, 25, 0]  # 30 less the whole points of 1.00, 2.50, 5.00 and 30.00
    assert payable(shop) == 0
    assert set(Posting.objects.filter(entry__currency="pts").values_list("account__kind", flat=True)) == {
        "points",
        "points_issued",
    }


def test_what_credit_paid_earns_points_too(shop):
    grant(shop, 1500)
    shop.checkout(payment=with_credit(1500))
    settle()
    assert points(shop) == 15


def test_no_rate_no_points(shop):
    from catalog.models import Merchant

    Merchant.objects.update(loyalty_rate_bp=0)
    shop.bought()
    assert (points(shop), Account.objects.filter(currency="pts").exists()) == (0, False)


def test_the_rate_of_the_sale_counts_also_for_its_refund(shop):
    from catalog.models import Merchant

    order = shop.bought()
    Merchant.objects.update(loyalty_rate_bp=50_000)
    refund(shop, order, 1500)
    assert points(shop) == 0


def test_a_refund_that_is_faster_than_the_sale_leaves_the_points_of_the_rest(shop):
    body = shop.checkout(payment=CARD).json()
    refund(shop, {"payments": [body["payment"]]}, 500)
    assert points(shop) == 10


def test_a_refund_that_fails_late_gives_the_points_back(shop):
    body = shop.checkout(payment={**CARD, "payment_method": "pm_card_refundFail"}).json()
    settle()
    payment = {"payments": [body["payment"]]}
    refund(shop, payment, 500)
    for _ in range(100):
        settle()
        if Payment.objects.get().refunded_minor == 0:
            break
    assert points(shop) == 15


def test_a_lost_dispute_takes_its_share_of_the_points_and_an_appeal_brings_it_back(shop, sandbox):
    intent = shop.bought(quantity=2)["payments"][0]["provider_reference"]
    dispute = sandbox.control("POST", "disputes", {"payment_intent": intent, "amount": 1000})["id"]
    held = []
    for status in ("under_review", "lost", "won"):
        sandbox.control("POST", "disputes/outcome", {"dispute": dispute, "status": status})
        settle()
        held.append(points(shop))
    assert held == [30, 20, 30]


def test_what_is_refunded_and_lost_takes_no_more_points_than_there_were(shop, sandbox):
    order = shop.bought(quantity=2)
    refund(shop, order, 2000)
    intent = order["payments"][0]["provider_reference"]
    dispute = sandbox.control("POST", "disputes", {"payment_intent": intent, "amount": 3000})["id"]
    sandbox.control("POST", "disputes/outcome", {"dispute": dispute, "status": "lost"})
    settle()
    assert points(shop) == 0


def test_a_dispute_that_is_lost_before_the_sale_is_posted_leaves_the_points_of_the_rest(shop, sandbox):
    body = shop.checkout(payment=CARD, quantity=2).json()
    intent = body["payment"]["provider_reference"]
    dispute = sandbox.control("POST", "disputes", {"payment_intent": intent, "amount": 1000})["id"]
    sandbox.control("POST", "disputes/outcome", {"dispute": dispute, "status": "lost"})
    services.sync_dispute(dispute, by="test")
    assert points(shop) == 0
    settle()
    assert points(shop) == 20


def test_the_same_news_again_changes_no_points(shop):
    order = shop.bought()
    refund(shop, order, 500)
    before = JournalEntry.objects.filter(currency="pts").count()
    payment = Payment.objects.get()
    with transaction.atomic():
        loyalty.earn_points(payment, by="test")
        loyalty.adjust_points(payment, cause="again", by="test")
    assert (points(shop), JournalEntry.objects.filter(currency="pts").count()) == (10, before)


def test_the_ledger_knows_money_in_points_and_points_in_money_neither(shop):
    for kind, currency in (("customer", "pts"), ("points", "usd")):
        with pytest.raises(IntegrityError, match="account_points_are_no_money"), transaction.atomic():
            Account.objects.create(
                id=ledger.AccountKey(kind, currency).id, kind=kind, currency=currency, merchant_id=shop.merchant_id
            )


@given(st.integers(1, 10**9), st.sampled_from(["usd", "jpy", "kwd"]), st.integers(0, 100_000))
def test_points_never_exceed_the_rate(amount, currency, rate_bp):
    earned = loyalty.points_for(amount, currency, rate_bp)
    unit = {"usd": 100, "jpy": 1, "kwd": 1000}[currency]
    assert earned * unit * 10_000 <= amount * rate_bp < (earned + 1) * unit * 10_000
