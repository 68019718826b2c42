"""Refunds made at the provider behind our back: recorded and posted by themselves, even where they break our sums."""

import pytest
from django.db import transaction

from durability.models import Delivery, Message
from orders import services as orders
from payments import gateway, services
from payments.models import JournalEntry, Payment, Refund
from reconciliation.models import Discrepancy
from tests.payments.books import assert_books_agree, balance, refund_in_the_dashboard
from tests.shop import settle

CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}


def test_a_refund_from_the_dashboard_is_recorded_and_posted_when_its_event_arrives(shop, sandbox):
    order = shop.bought()
    made = refund_in_the_dashboard(sandbox, order["payments"][0]["provider_reference"], 600)
    settle()
    refund = Refund.objects.get()
    assert (refund.provider_reference, refund.amount_minor, refund.status) == (made["id"], 600, "succeeded")
    assert refund.made_elsewhere
    assert balance("merchant_payable") == -900
    assert_books_agree(Payment.objects.get())
    order = shop.order(order["number"])
    assert (order["status"], order["refund_status"]) == ("paid", "partial")
    assert order["payments"][0]["refund_status"] == "partial"


def test_two_events_of_one_refund_record_it_once(shop, sandbox):
    made = refund_in_the_dashboard(sandbox, shop.bought()["payments"][0]["provider_reference"])
    settle()
    for _ in range(3):
        services.sync_refund(made["id"], by="test")
    settle()
    assert Refund.objects.count() == 1
    assert JournalEntry.objects.filter(kind="refund").count() == 1


def test_two_workers_that_read_it_at_once_record_it_once(race, shop, sandbox):
    made = refund_in_the_dashboard(sandbox, shop.bought()["payments"][0]["provider_reference"])
    race.stop("payments.services.refunds_elsewhere.lock_payment", at="before")
    for name in ("a", "b"):
        race.actor(name, lambda: services.sync_refund(made["id"], by="webhook"))
    assert race.play("a b a b") == {"a": True, "b": True}
    assert Refund.objects.count() == 1


def test_a_whole_refund_from_the_dashboard_ends_a_cancellation(shop, sandbox):
    """The order was to be cancelled, and somebody was quicker in the dashboard than our worker."""
    order = shop.bought()
    shop.post(f"/orders/{order['number']}/cancel")
    made = refund_in_the_dashboard(sandbox, order["payments"][0]["provider_reference"])
    services.sync_refund(made["id"], by="webhook")
    payment = Payment.objects.get()
    assert (payment.refunds_excess_minor, payment.refunds_committed_minor) == (1500, 1500)
    assert_books_agree(payment)
    settle()  # ours is refused by the provider, which has nothing left
    assert sorted(Refund.objects.values_list("status", flat=True)) == ["failed", "succeeded"]
    assert_books_agree(payment)
    assert payment.refunds_excess_minor == 0
    assert shop.order(order["number"])["refund_status"] == "refunded"
    assert balance("merchant_payable") == balance("customer") == 0


def test_what_breaks_the_sum_is_stored_and_told(shop, sandbox):
    order = shop.bought()
    payment = order["payments"][0]
    shop.post(f"/payments/{payment['number']}/refunds", {"amount": 1000, "reason": "x"})  # held, and not sent yet
    made = refund_in_the_dashboard(sandbox, payment["provider_reference"], 700)
    services.sync_refund(made["id"], by="webhook")
    told = Message.objects.get(name="payments.over_refunded.v1")
    assert told.payload["excess_minor"] == 200
    assert_books_agree(Payment.objects.get())
    settle(webhooks=False)
    item = Discrepancy.objects.get()
    assert (item.kind, item.state, item.source, item.order_reference) == (
        "over_refunded",
        "open",
        made["id"],
        order["number"],
    )
    assert "$2.00 more" in item.evidence["told"]


@pytest.mark.parametrize("amount", [600, 1500])
def test_a_refund_from_the_dashboard_that_is_faster_than_the_sale_leaves_the_sale_alone(shop, sandbox, amount):
    body = shop.checkout(payment=CONFIRMED).json()  # captured; nobody has told us
    made = refund_in_the_dashboard(sandbox, body["payment"]["provider_reference"], amount)
    services.sync_refund(made["id"], by="webhook")  # reads the payment first
    assert_books_agree(Payment.objects.get())
    settle()
    assert shop.order(body["order"]["number"])["status"] == "paid"
    assert balance("merchant_payable") == amount - 1500
    assert balance("customer") == 0
    assert_books_agree(Payment.objects.get())


def test_beyond_the_sum_before_the_sale_no_account_is_overdrawn(shop, sandbox):
    body = shop.checkout(payment=CONFIRMED).json()
    services.sync_payment(body["payment"]["provider_reference"], by="webhook")
    with transaction.atomic():
        services.request_refund(
            payment=body["payment"]["number"], amount_minor=1000, reason="x", requested_by="maria", policy=None
        )
    made = refund_in_the_dashboard(sandbox, body["payment"]["provider_reference"], 1500)
    services.sync_refund(made["id"], by="webhook")
    assert_books_agree(Payment.objects.get())
    settle()
    assert_books_agree(Payment.objects.get())
    assert balance("merchant_payable") == balance("customer") == 0
    assert not Delivery.objects.filter(state="parked").exists()


def test_one_that_takes_its_time_is_held_and_settled_by_its_news(shop, sandbox):
    body = shop.checkout(payment={**CONFIRMED, "payment_method": "pm_card_pendingRefund"}).json()
    settle()
    made = refund_in_the_dashboard(sandbox, body["payment"]["provider_reference"])
    services.sync_refund(made["id"], by="webhook")
    refund = Refund.objects.get()
    assert (refund.status, refund.next_check_at is not None) == ("pending", True)
    assert shop.order(body["order"]["number"])["refund_status"] == "refunding"
    assert_books_agree(Payment.objects.get())


def test_a_second_success_that_was_given_back_in_the_dashboard_is_not_given_back_again(shop, sandbox):
    """The handler that would give it back finds nothing left, and parks nothing."""
    number = shop.checkout().json()["order"]["number"]
    other = gateway.create_intent(
        number="beside", amount_minor=1500, currency="usd", metadata={}, payment_method="pm_card_visa", confirm=True
    )
    assert other.charge is not None
    orders.attach_payment(order_number=number, charge=other.charge.id, by="clerk", why="paid by phone")
    settle()
    second = gateway.create_intent(
        number="beside2", amount_minor=1500, currency="usd", metadata={}, payment_method="pm_card_visa", confirm=True
    )
    assert second.charge is not None
    orders.attach_payment(order_number=number, charge=second.charge.id, by="clerk", why="paid twice")
    made = refund_in_the_dashboard(sandbox, second.id)
    services.sync_refund(made["id"], by="webhook")  # before the handler of the capture
    settle()
    assert not Payment.objects.get(provider_reference=second.id).settling
    assert Refund.objects.filter(status="succeeded").count() == Refund.objects.count() == 1
    assert not Delivery.objects.filter(state__in=["parked", "pending"]).exists()
    assert shop.order(number)["refund_status"] == "none"


def test_a_refund_of_nobodys_payment_is_left_to_reconciliation(shop, sandbox):
    paid = gateway.create_intent(
        number="elsewhere3",
        amount_minor=900,
        currency="usd",
        metadata={},
        payment_method="pm_card_visa",
        confirm=True,
    )
    made = refund_in_the_dashboard(sandbox, paid.id)
    assert services.sync_refund(made["id"], by="webhook") is False
    assert not Refund.objects.exists()
