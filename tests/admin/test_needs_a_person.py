"""The operators' list: what was tried stands there, and who decides says why."""

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.db.models.functions import Now

from durability.models import Message
from payments import services as payments
from payments.models import InboxEvent, Payment, PaymentHistory
from payments.services.tries import need_person
from reconciliation.models import Discrepancy
from tests.admin.conftest import list_url, page_url
from tests.admin.test_acts import press
from tests.shop import settle

CONFIRMED = {"method": "card", "payment_method": "pm_card_visa", "confirm": True}


@pytest.fixture
def lost(shop, sandbox) -> Payment:
    """Sent a day ago, never answered, and not to be found at the provider."""
    sandbox.control("POST", "faults", {"match": "POST /v1/payment_intents", "kind": "reset", "times": 1})
    shop.checkout(payment=CONFIRMED)
    Payment.objects.update(first_sent_at=Now() - timedelta(hours=24))
    settle()
    return Payment.objects.get()


def test_the_list_holds_what_needs_a_person_and_its_page_what_was_tried(as_role, shop, lost):
    shop.bought()
    client = as_role("operator")
    listed = client.get(list_url(Payment), {"needs_a_person": "yes"}).content.decode()
    assert lost.number in listed
    assert Payment.objects.exclude(pk=lost.pk).get().number not in listed
    page = client.get(page_url(lost)).content.decode()
    assert "the provider lists nothing under this number" in page
    assert "looked it up by its number" in page
    assert "sent more than 23 hours ago" in page


def test_an_operator_ends_it_with_a_reason(as_role, lost):
    answer = press(as_role("operator"), lost, "end", note="nothing on the card either")
    assert "the provider never made it" in answer.content.decode()
    assert Payment.objects.get().status == "cancelled"
    last = PaymentHistory.objects.latest("id")
    assert (last.by, last.why) == ("operator", "nothing on the card either")
    assert LogEntry.objects.filter(change_message__contains="nothing on the card either").exists()
    assert press(as_role("manager"), lost, "end", note="again").status_code == 409


@pytest.fixture
def forgotten(shop) -> Payment:
    """Paid, and the provider says that it does not know it any more."""
    payment = Payment.objects.get(reference=shop.bought()["number"])
    need_person(payment, "the provider does not know it any more")
    payment.refresh_from_db()
    return payment


def test_what_was_settled_elsewhere_leaves_the_list(as_role, forgotten):
    press(as_role("manager"), forgotten, "settled", note="deleted there by mistake")
    assert Payment.objects.get().person_needed_at is None
    assert PaymentHistory.objects.latest("id").why == "settled by hand: deleted there by mistake"


@pytest.mark.parametrize(("which", "act"), [("lost", "end"), ("forgotten", "settled")])
def test_a_clerk_only_looks(as_role, request, which, act):
    payment = request.getfixturevalue(which)
    assert press(as_role("clerk"), payment, act, note="please").status_code == 403
    assert press(as_role("operator"), payment, act, note="  ").status_code == 400
    assert Payment.objects.get().person_needed_at is not None


def test_a_contradiction_stands_on_the_payments_page(as_role, shop, sandbox):
    import requests

    body = shop.checkout().json()
    intent = body["payment"]["provider_reference"]
    requests.post(
        f"{sandbox.url}/v1/payment_intents/{intent}", {"amount": 1400}, auth=("sk_test_sandbox", ""), timeout=10
    ).raise_for_status()
    payments.sync_payment(intent, by="re-check")
    client = as_role("clerk")
    page = client.get(page_url(Payment.objects.get())).content.decode()
    assert "the provider has 1400 usd, we have 1500 usd" in page
    settle()
    item = Discrepancy.objects.get(payment_id=Payment.objects.get().pk)  # no run has seen it yet
    assert item.first_seen_run is None
    page = client.get(page_url(item))
    assert page.status_code == 200
    assert "the provider has 1400 usd, we have 1500 usd" in page.content.decode()
    assert "Amounts differ" in client.get("/admin/").content.decode()


# --- The inbox --------------------------------------------------------------------------------------


def told() -> int:
    return Message.objects.filter(name="payments.provider_event_received.v1").count()


def test_an_operator_has_an_event_worked_on_again(as_role, shop):
    shop.bought()
    event = InboxEvent.objects.filter(type="payment_intent.succeeded").latest("received_at")
    before = told()
    answer = press(as_role("operator"), event, "replay", note="its handler was mended")
    assert "again" in answer.content.decode()
    assert told() == before + 1
    assert LogEntry.objects.filter(change_message__contains="its handler was mended").exists()
    assert press(as_role("clerk"), event, "replay", note="please").status_code == 403
    assert press(as_role("operator"), event, "replay", note="").status_code == 400
    assert told() == before + 1
