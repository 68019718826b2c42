"""A merchant's terms for refunds, and a refund that the bank sends back after it had succeeded."""

import time

import pytest
from django.db.models import Sum

from payments.models import Posting, Refund
from tests.shop import Shop, open_shop, settle

LATE_NEWS_S = 0.3  # the sandbox of the tests sends late news after 0.2 s


@pytest.fixture
def terms(shop):
    """Opens a shop with other terms than the usual ones, and sells one book there."""

    def sell(**others: int) -> tuple[Shop, str]:
        other = open_shop(**others)
        other.stock("book", 10)
        return other, other.bought()["payments"][0]["number"]

    return sell


def refused(shop: Shop, payment: str, **body: object) -> tuple[int, str]:
    answer = shop.post(f"/payments/{payment}/refunds", {"reason": "a torn page", **body})
    return answer.status_code, answer.json()["code"]


def balance(kind: str) -> int:
    return Posting.objects.filter(account__kind=kind).aggregate(total=Sum("amount_minor"))["total"] or 0


def test_after_the_window_a_refund_is_refused(terms):
    shop, payment = terms(refund_window_days=0)
    assert refused(shop, payment) == (409, "refund_window_closed")


def test_without_an_amount_all_that_the_terms_allow_is_refunded(terms):
    shop, payment = terms(refund_ratio_bp=5_000, refund_fee_minor=100)
    assert refused(shop, payment, amount=651) == (409, "refund_exceeds_captured")
    answer = shop.post(f"/payments/{payment}/refunds", {"reason": "a torn page"})
    assert (answer.status_code, answer.json()["amount"]) == (201, 1500 // 2 - 100)
    assert refused(shop, payment, amount=1) == (409, "refund_exceeds_captured")


def test_a_fee_above_the_share_leaves_nothing_to_refund(terms):
    shop, payment = terms(refund_ratio_bp=1_000, refund_fee_minor=151)
    assert refused(shop, payment) == (409, "refund_exceeds_captured")


def test_a_refund_that_the_bank_sends_back_is_owed_again(shop):
    answer = shop.checkout(payment={"method": "card", "payment_method": "pm_card_refundFail", "confirm": True})
    settle()
    payment = answer.json()["payment"]["number"]
    refund = shop.post(f"/payments/{payment}/refunds", {"amount": 500, "reason": "a torn page"}).json()["number"]
    settle()
    time.sleep(LATE_NEWS_S)
    settle()
    row = Refund.objects.get(pk=Refund.id_of(refund))
    assert [(step.from_state, step.to_state) for step in row.history.order_by("pk")][-1] == ("succeeded", "failed")
    assert shop.storefront.get(f"/api/v1/payments/{payment}").json()["amount_refunded"] == 0
    assert (balance("merchant_payable"), balance("refunds_in_flight")) == (-1500, 0)
    assert shop.post(f"/payments/{payment}/refunds", {"amount": 1500, "reason": "again"}).status_code == 201
