"""A merchant's terms for refunds: customers' requests obey them, staff with a reason may pass."""

import pytest
from django.db import transaction

from payments import services
from payments.models import Payment
from tests.shop import Shop, open_shop


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


@pytest.mark.parametrize(
    ("ratio_bp", "allowed"),
    [(10_000, 1500), (3_333, 500), (10, 2), (30, 4), (50, 8)],  # of 1500: the last three are 1.5, 4.5 and 7.5
)
def test_the_share_is_rounded_half_to_even(terms, ratio_bp, allowed):
    shop, payment = terms(refund_ratio_bp=ratio_bp)
    answer = shop.post(f"/payments/{payment}/refunds", {"reason": "a torn page"})
    assert answer.json().get("amount", 0) == allowed


def test_several_partial_refunds_share_what_the_terms_allow(terms):
    shop, payment = terms(refund_ratio_bp=8_000, refund_fee_minor=100)  # 11.00 of 15.00
    for amount in (400, 300, 400):
        assert shop.post(f"/payments/{payment}/refunds", {"amount": amount, "reason": "x"}).status_code == 201
    assert refused(shop, payment, amount=1) == (409, "refund_exceeds_captured")


def test_staff_with_a_reason_pass_window_ratio_and_fee(terms):
    _, payment = terms(refund_window_days=0, refund_ratio_bp=1_000, refund_fee_minor=151)
    with transaction.atomic():
        services.request_refund(
            payment=payment, amount_minor=None, reason="we were wrong", requested_by="maria", policy=None
        )
    assert Payment.objects.get(pk=Payment.id_of(payment)).refunds_committed_minor == 1500


def test_a_cancellation_passes_them_too(terms):
    shop, payment = terms(refund_window_days=0, refund_ratio_bp=1_000)
    order = shop.storefront.get(f"/api/v1/payments/{payment}").json()["order"]
    assert shop.post(f"/orders/{order}/cancel").json()["refund_status"] == "refunding"


def test_a_payment_that_has_not_succeeded_is_refused_first(shop):
    payment = shop.checkout().json()["payment"]["number"]
    assert refused(shop, payment, amount=1) == (409, "payment_not_refundable")


def test_another_merchants_payment_is_not_found(terms, shop):
    _, payment = terms()
    assert refused(shop, payment) == (404, "not_found")


def test_a_fee_in_dollars_says_nothing_of_a_payment_in_yen(shop):
    other = open_shop(refund_fee_minor=500)
    other.stock("manga", 1, price=900, currency="jpy")
    payment = other.bought("manga")["payments"][0]["number"]
    answer = other.post(f"/payments/{payment}/refunds", {"reason": "a torn page"})
    assert (answer.json()["amount"], answer.json()["currency"]) == (900, "jpy")
