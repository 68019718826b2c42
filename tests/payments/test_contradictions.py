"""What the provider says and cannot be: nothing is marked paid, one discrepancy opens at once, the order goes on soundly."""

import logging
from typing import Any

import pytest
import requests
from django.db import transaction
from django.db.models import Sum
from django.db.models.functions import Now

from durability.models import Message, SagaRun
from foundation.database import database_now
from orders import services as orders
from orders.models import Order
from payments import gateway
from payments import services as payments
from payments.errors import ContradictsProvider
from payments.models import JournalEntry, Payment, Posting, Refund
from payments.types import Intent
from reconciliation import selectors as reconciliation
from reconciliation import services as desk
from reconciliation.models import Discrepancy
from reconciliation.types import ActionInput
from tests.shop import Shop, open_shop, settle

CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}


def at_stripe(sandbox, path: str, **body: Any) -> dict[str, Any]:
    """Somebody with our key works at the provider, behind our back."""
    answer = requests.post(f"{sandbox.url}{path}", data=body, auth=("sk_test_sandbox", ""), timeout=10)
    document: dict[str, Any] = answer.json()
    assert answer.status_code == 200, document
    return document


def pay_in_browser(sandbox, payment: dict[str, Any], card: str = "pm_card_visa") -> None:
    """What Stripe.js does."""
    requests.post(
        f"{sandbox.url}/v1/payment_intents/{payment['provider_reference']}/confirm",
        data={"client_secret": payment["client_secret"], "payment_method": card},
        headers={"Authorization": "Bearer pk_test_sandbox"},
        timeout=10,
    ).raise_for_status()


@pytest.fixture
def shop(transactional_db, valkey, sandbox) -> Shop:
    """A shop at a provider that knows of nobody else: runs compare all of its books."""
    sandbox.control("POST", "webhooks", {"mode": "drop"})
    shop = open_shop()
    shop.stock("book", 10)
    return shop


def expire() -> None:
    Order.objects.filter(status="pending").update(expires_at=Now())
    orders.rearm()
    orders.expire_due()
    settle()


def contradictions() -> int:
    return Message.objects.filter(name="payments.payment_contradicted.v1").count()


def open_items() -> list[tuple[str, str]]:
    return list(Discrepancy.objects.exclude(state="resolved").order_by("id").values_list("kind", "source"))


@pytest.fixture
def wrong_amount(shop: Shop, sandbox) -> dict[str, Any]:
    """14.00 were taken for an order of 15.00: the payment's document, with the charge."""
    body: dict[str, Any] = shop.checkout().json()
    at_stripe(sandbox, f"/v1/payment_intents/{body['payment']['provider_reference']}", amount=1400)
    pay_in_browser(sandbox, body["payment"])
    intent = gateway.retrieve_intent(body["payment"]["provider_reference"])
    assert intent.charge is not None
    return {**body["payment"], "order": body["order"]["number"], "charge": intent.charge.id}


@pytest.mark.guard(13)
def test_another_amount_marks_nothing_paid_and_is_a_discrepancy_at_once(shop, wrong_amount):
    settle()
    payment = Payment.objects.get()
    assert (payment.status, payment.captured_minor, payment.paid_at) == ("pending", 0, None)
    assert shop.order(wrong_amount["order"])["status"] == "pending"
    assert not JournalEntry.objects.exists()
    item = Discrepancy.objects.get()
    assert (item.kind, item.source, item.state) == ("amount_mismatch", wrong_amount["charge"], "open")
    assert (item.ours_amount_minor, item.theirs_amount_minor, item.difference_minor) == (1500, 1400, 1400)
    assert (item.payment_number, item.order_reference) == (wrong_amount["number"], wrong_amount["order"])
    assert reconciliation.open_counts()["amount_mismatch"] == 1  # the gauge, and the dashboard's tile
    assert payment.contradicted_at is not None
    assert "1400 usd" in payment.contradiction


def test_it_is_told_once_however_often_it_is_read(shop, wrong_amount, caplog):
    caplog.set_level(logging.ERROR)
    settle()
    first = Payment.objects.get()
    for _ in range(5):
        assert not payments.sync_payment(wrong_amount["provider_reference"], by="re-check")
    settle()
    assert contradictions() == 1
    assert len([line for line in caplog.records if line.levelno >= logging.ERROR]) == 1
    assert Discrepancy.objects.count() == 1
    again = Payment.objects.get()
    assert (again.contradicted_at, again.contradiction) == (first.contradicted_at, first.contradiction)


def test_the_order_expires_once_its_stock_comes_back_and_the_money_waits_for_a_person(shop, wrong_amount, caplog):
    settle()
    caplog.clear()
    caplog.set_level(logging.ERROR)
    expire()
    order = shop.order(wrong_amount["order"])
    assert (order["status"], order["payments"][0]["status"]) == ("cancelled", "cancelled")
    assert shop.level() == (10, 0)
    assert SagaRun.objects.filter(recipe="orders.cancel_unpaid").count() == 1  # not every five minutes
    expire()
    assert SagaRun.objects.filter(recipe="orders.cancel_unpaid").count() == 1
    assert not [line for line in caplog.records if line.levelno >= logging.ERROR]
    assert open_items() == [("amount_mismatch", wrong_amount["charge"])]


def test_a_mismatch_that_expiry_learns_of_first_ends_the_same(shop, wrong_amount):
    Order.objects.update(expires_at=Now())
    orders.rearm()
    orders.expire_due()
    settle(webhooks=False)
    assert shop.order(wrong_amount["order"])["status"] == "cancelled"
    assert shop.level() == (10, 0)
    assert open_items() == [("amount_mismatch", wrong_amount["charge"])]


def test_the_nightly_run_finds_the_same_discrepancy(shop, wrong_amount):
    settle()
    [before] = Discrepancy.objects.values("id", "fingerprint", "kind", "difference_minor")
    report = desk.reconcile_day(day=database_now().date(), by="test")
    assert Discrepancy.objects.values("id", "fingerprint", "kind", "difference_minor").get() == before
    assert report.open_count == 1
    assert report.residual == {"usd": 0}
    assert Discrepancy.objects.get().last_seen_run is not None
    settle()
    assert Discrepancy.objects.count() == 1


def test_a_run_that_found_it_first_and_the_news_make_one(shop, wrong_amount):
    Payment.objects.filter(provider_reference__isnull=False).update(next_check_at=None)
    desk.reconcile_day(day=database_now().date(), by="test")
    assert open_items() == [("amount_mismatch", wrong_amount["charge"])]
    settle()
    assert contradictions() == 1
    assert open_items() == [("amount_mismatch", wrong_amount["charge"])]


def test_a_person_gives_it_back_and_the_run_confirms(shop, wrong_amount):
    settle()
    expire()
    item = Discrepancy.objects.get()
    desk.perform(discrepancy_id=item.pk, action="refund_customer", by="mia", note="wrong amount", given=ActionInput())
    settle()
    item.refresh_from_db()
    assert (item.state, item.closed_as) == ("resolved", "fixed")
    refund = Refund.objects.get()
    assert (refund.status, refund.amount_minor) == ("succeeded", 1400)
    apart = refund.payment
    assert (apart.reference, apart.captured_minor, apart.refunded_minor) == (item.number, 1400, 1400)
    ours = Payment.objects.exclude(pk=apart.pk).get()
    assert (ours.status, ours.provider_reference) == ("cancelled", None)
    assert Posting.objects.aggregate(total=Sum("amount_minor"))["total"] == 0
    assert not Posting.objects.filter(account__kind="customer").aggregate(total=Sum("amount_minor"))["total"]
    report = desk.reconcile_day(day=database_now().date(), by="test")
    assert report.open_count == 0
    item.refresh_from_db()
    assert item.verified_at is not None


def test_what_was_not_taken_by_us_is_not_corrected(shop, wrong_amount):
    settle()
    from foundation.errors import InvalidInput

    with pytest.raises(InvalidInput):
        desk.perform(
            discrepancy_id=Discrepancy.objects.get().pk,
            action="post_correction",
            by="mia",
            note="x",
            given=ActionInput(),
        )


def test_no_second_payment_is_taken_while_money_is_there_that_nobody_asked_for(shop, wrong_amount):
    settle()
    answer = shop.storefront.post(
        f"/api/v1/orders/{wrong_amount['order']}/payments",
        CONFIRMED,
        format="json",
        headers={"Idempotency-Key": "again"},
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "payment_in_progress")
    assert Payment.objects.count() == 1


@pytest.mark.guard(13)
def test_a_wrong_amount_that_nobody_has_paid_yet_cannot_be_paid_any_more(shop, sandbox):
    body = shop.checkout().json()
    reference = body["payment"]["provider_reference"]
    at_stripe(sandbox, f"/v1/payment_intents/{reference}", amount=1400)
    payments.sync_payment(reference, by="re-check")
    settle()
    assert gateway.retrieve_intent(reference).status == "canceled"
    assert shop.order(body["order"]["number"])["payments"][0]["status"] == "cancelled"
    assert open_items() == [("amount_mismatch", reference)]  # a person should know who changes amounts
    desk.reconcile_day(day=database_now().date(), by="test")
    assert open_items() == [("amount_mismatch", reference)]
    # The order is still open: the customer pays what it costs.
    again = shop.storefront.post(
        f"/api/v1/orders/{body['order']['number']}/payments",
        CONFIRMED,
        format="json",
        headers={"Idempotency-Key": "again"},
    )
    assert again.status_code == 201, again.json()
    settle()
    assert shop.order(body["order"]["number"])["status"] == "paid"


def test_an_intent_that_was_told_of_before_it_took_money_stays_one_discrepancy(shop, sandbox, monkeypatch):
    body = shop.checkout().json()
    reference = body["payment"]["provider_reference"]
    at_stripe(sandbox, f"/v1/payment_intents/{reference}", amount=1400)
    with monkeypatch.context() as late:  # the customer is faster than our cancelling
        late.setattr("payments.services.contradictions.durability.start_saga", lambda *_, **__: None)
        payments.sync_payment(reference, by="re-check")
    settle()
    assert open_items() == [("amount_mismatch", reference)]
    pay_in_browser(sandbox, body["payment"])
    settle()
    charge = Payment.objects.get().charge_reference
    assert charge
    assert open_items() == [("amount_mismatch", charge)]
    assert contradictions() == 2


@pytest.mark.guard(13)
def test_another_currency_marks_nothing_paid(shop, sandbox):
    """As if the provider had taken yen: the number is the same."""
    body = shop.checkout(payment=CONFIRMED, headers={"Prefer": "respond-async"}).json()
    number = body["payment"]["number"]
    outcome = payments.open_at_provider(number)
    Payment.objects.update(currency="jpy")
    with transaction.atomic():
        payments.record_opening(number, outcome)
    settle()
    assert Payment.objects.get().status == "pending"
    item = Discrepancy.objects.get()
    assert (item.kind, item.theirs_currency, item.ours_currency) == ("currency_mismatch", "usd", "jpy")
    assert item.difference_minor is None
    desk.reconcile_day(day=database_now().date(), by="test")
    assert open_items() == [("currency_mismatch", item.source)]
    desk.perform(discrepancy_id=item.pk, action="refund_customer", by="mia", note="wrong currency", given=ActionInput())
    settle()
    assert Refund.objects.get().status == "succeeded"
    item.refresh_from_db()
    assert item.closed_as == "fixed"


@pytest.mark.guard(13)
def test_test_money_pays_nothing_where_the_key_is_live(shop, monkeypatch):
    body = shop.checkout(payment=CONFIRMED, headers={"Prefer": "respond-async"}).json()
    number = body["payment"]["number"]
    outcome = payments.open_at_provider(number)
    monkeypatch.setattr(gateway, "livemode", lambda: True)
    with transaction.atomic():
        payments.record_opening(number, outcome)
    settle()
    assert Payment.objects.get().status == "pending"
    assert [kind for kind, _ in open_items()] == ["status_mismatch"]
    monkeypatch.setattr(gateway, "livemode", lambda: False)
    settle()
    desk.reconcile_day(day=database_now().date(), by="test")
    assert len(Discrepancy.objects.all()) == 1


def test_test_money_is_not_adopted_where_the_key_is_live(shop, monkeypatch):
    number = shop.checkout().json()["order"]["number"]
    paid = gateway.create_intent(
        number="stray", amount_minor=1500, currency="usd", metadata={}, payment_method="pm_card_visa", confirm=True
    )
    assert paid.charge
    monkeypatch.setattr(gateway, "livemode", lambda: True)
    with pytest.raises(ContradictsProvider, match="other mode"):
        payments.adopt_charge(
            charge=paid.charge.id,
            merchant_id=shop.merchant_id,
            reference=number,
            customer="cust-1",
            amount_minor=1500,
            currency="usd",
            by="mia",
            why="hers",
        )
    assert Payment.objects.count() == 1


def another_intent(number: str, order: str) -> Intent:
    """A second intent under our number: a defect, or somebody with our key."""
    return gateway.create_intent(
        number="another",
        amount_minor=1500,
        currency="usd",
        metadata={"payment": number, "order": order, "instance": "everycent"},
        payment_method="pm_card_visa",
        confirm=True,
    )


def test_another_intent_under_our_number_pays_nothing_and_is_told(shop):
    body = shop.checkout().json()
    second = another_intent(body["payment"]["number"], body["order"]["number"])
    assert second.charge is not None
    settle()
    payment = Payment.objects.get()
    assert (payment.status, payment.provider_reference) == ("pending", body["payment"]["provider_reference"])
    assert open_items() == [("missing_in_our_system", second.charge.id)]
    desk.reconcile_day(day=database_now().date(), by="test")
    assert open_items() == [("missing_in_our_system", second.charge.id)]
    pay = Discrepancy.objects.get()
    desk.perform(discrepancy_id=pay.pk, action="create_missing_payment", by="mia", note="hers", given=ActionInput())
    settle()
    assert shop.order(body["order"]["number"])["status"] == "paid"
    assert gateway.retrieve_intent(payment.provider_reference or "").status == "canceled"


def test_another_intent_beside_a_payment_that_was_made_is_a_charge_too_many(shop):
    order = shop.bought()
    second = another_intent(order["payments"][0]["number"], order["number"])
    assert second.charge is not None
    settle()
    assert open_items() == [("duplicate_charge", second.charge.id)]
    desk.reconcile_day(day=database_now().date(), by="test")
    assert open_items() == [("duplicate_charge", second.charge.id)]


def test_control_without_the_check_a_wrong_amount_is_captured(shop, wrong_amount, monkeypatch):
    monkeypatch.setattr("payments.services.payment_news.contradiction", lambda *_: "")
    settle()
    assert Payment.objects.get().captured_minor == 1400  # of 1500


# --- Refunds ----------------------------------------------------------------------------------------


def test_a_refund_of_another_amount_is_a_discrepancy_at_once_and_can_be_replaced(shop, monkeypatch):
    payment = shop.bought()["payments"][0]["number"]
    real = gateway.create_refund

    def short(**asked: Any) -> Any:
        return real(**{**asked, "amount_minor": 400})

    monkeypatch.setattr(gateway, "create_refund", short)
    shop.post(f"/payments/{payment}/refunds", {"amount": 500, "reason": "a torn page"})
    settle()
    ours = Refund.objects.get()
    assert (ours.status, ours.contradicted_at is not None) == ("processing", True)
    item = Discrepancy.objects.get()
    assert (item.kind, item.source, item.state) == ("amount_mismatch_refund", ours.provider_reference, "open")
    assert (item.ours_amount_minor, item.theirs_amount_minor, item.difference_minor) == (500, 400, -400)
    desk.reconcile_day(day=database_now().date(), by="test")
    assert Discrepancy.objects.count() == 1
    assert Message.objects.filter(name="payments.refund_contradicted.v1").count() == 1
    desk.perform(discrepancy_id=item.pk, action="post_correction", by="mia", note="400 it is", given=ActionInput())
    settle()
    item.refresh_from_db()
    assert item.closed_as == "fixed"
    ours.refresh_from_db()
    assert ours.status == "failed"
    paid = Payment.objects.get()
    assert (paid.refunded_minor, paid.refunds_committed_minor) == (400, 400)
    assert Posting.objects.filter(account__kind="refunds_in_flight").aggregate(total=Sum("amount_minor"))["total"] == 0
    assert desk.reconcile_day(day=database_now().date(), by="test").open_count == 0


def test_a_refund_that_comes_back_is_a_discrepancy_at_once_that_only_a_person_closes(shop, sandbox, settings):
    answer = shop.checkout(payment={"method": "card", "payment_method": "pm_card_refundFail", "confirm": True})
    settle()
    payment = answer.json()["payment"]["number"]
    shop.post(f"/payments/{payment}/refunds", {"amount": 500, "reason": "a torn page"})
    for _ in range(50):
        settle()
        if Refund.objects.get().status == "failed":
            break
    refund = Refund.objects.get()
    assert refund.status == "failed"
    assert open_items() == [("refund_failed_late", refund.provider_reference)]
    desk.reconcile_day(day=database_now().date(), by="test")  # both books agree, and the customer still waits
    assert open_items() == [("refund_failed_late", refund.provider_reference)]
    item = Discrepancy.objects.get()
    desk.perform(discrepancy_id=item.pk, action="refund_customer", by="mia", note="another try", given=ActionInput())
    item.refresh_from_db()
    assert (item.state, item.closed_as) == ("resolved", "fixed")
    assert Refund.objects.count() == 2
    assert Refund.objects.latest("id").amount_minor == 500
