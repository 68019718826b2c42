"""Any order, any number of times: the same final state and the same postings.

One history at the provider. Its events are delivered in many orders, doubled, with some lost, between re-checks; each time
in a database that begins anew. What comes out is the same.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest
from django.db.models.functions import Now

from durability.models import Delivery, Message, SagaRun
from foundation.database import database_now
from orders.models import Order
from payments import gateway
from payments import services as payments
from payments.models import InboxEvent, JournalEntry, Payment, Posting, Refund
from payments.services import inbox
from payments.types import ProviderEvent
from tests.payments.test_client_secret import busy_shop, delivering
from tests.payments.test_contradictions import pay_in_browser
from tests.shop import RECENT, Shop, settle

__all__ = ["busy_shop", "delivering"]
ORDERS = 6  # seeds of each history
Play = Callable[[], None]


def declined_then_paid(shop: Shop, sandbox: Any) -> dict[str, Any]:
    """A decline in the browser, 3-D Secure that fails, then one that succeeds."""
    body: dict[str, Any] = shop.checkout().json()
    payment = body["payment"]
    with pytest.raises(Exception, match="402"):
        pay_in_browser(sandbox, payment, "pm_card_chargeDeclined")
    for outcome in ("fail", "succeed"):
        pay_in_browser(sandbox, payment, "pm_card_authenticationRequired")
        sandbox.control("POST", "authenticate", {"payment_intent": payment["provider_reference"], "outcome": outcome})
    return body


def paid_and_refunded_elsewhere(shop: Shop, sandbox: Any) -> dict[str, Any]:
    """We confirmed and refunded half; nothing but the sending was written down here."""
    body: dict[str, Any] = shop.checkout(
        payment={"method": "card", "payment_method": "pm_card_visa", "confirm": True}
    ).json()
    return body


def cancelled(shop: Shop, sandbox: Any) -> dict[str, Any]:
    body: dict[str, Any] = shop.checkout().json()
    gateway.cancel_intent(body["payment"]["provider_reference"])
    return body


HISTORIES = {
    "declined, 3-D Secure failed, paid": declined_then_paid,
    "confirmed by us": paid_and_refunded_elsewhere,
    "cancelled at the provider": cancelled,
}


def state(number: str) -> dict[str, Any]:
    """How things stand, without what differs from run to run."""
    order = Order.objects.get(pk=Order.id_of(number))
    payment = Payment.objects.get(reference=number)
    return {
        "order": order.status,
        "payment": (payment.status, payment.captured_minor, payment.settling, payment.failure_code),
        "refunds": sorted(Refund.objects.values_list("status", "amount_minor")),
        "entries": sorted(JournalEntry.objects.values_list("kind", flat=True)),
        "postings": sorted(Posting.objects.values_list("account__kind", "amount_minor")),
        "told": sorted(
            Message.objects.filter(
                name__in=[f"payments.payment_{what}.v1" for what in ("captured", "failed")]
            ).values_list("name", flat=True)
        ),
    }


def deliver(event: ProviderEvent) -> None:
    inbox._store_event(event)


def recheck() -> None:
    Payment.objects.filter(next_check_at__isnull=False).update(next_check_at=Now())
    Refund.objects.filter(next_check_at__isnull=False).update(next_check_at=Now())
    payments.recheck_due()


def forget_the_news() -> None:
    """The same events come as if for the first time; what they did stays."""
    InboxEvent.objects.all().delete()


@pytest.mark.guard(12)
@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("seed", range(ORDERS))
def test_the_final_state_does_not_depend_on_how_the_news_came(shop, sandbox, history, seed):
    chance = random.Random(seed)
    since = database_now() - RECENT
    body = HISTORIES[history](shop, sandbox)
    number = body["order"]["number"]
    reference = body["payment"]["provider_reference"]
    events = [one for one in gateway.list_events(since=since) if reference in (one.intent_id, one.object_id)]
    assert len(events) >= 2

    # Doubled, some of them lost, shuffled, with re-checks and the workers' work in between; the truth at the end at least once.
    steps: list[Play] = []
    for event in events:
        copies = chance.choice([0, 1, 1, 2, 3])
        steps += [lambda event=event: deliver(event)] * copies  # type: ignore[misc]
    steps += [recheck] * chance.randint(0, 2)
    steps += [lambda: settle(webhooks=False)] * chance.randint(0, 3)
    steps += [forget_the_news] * chance.randint(0, 2)
    chance.shuffle(steps)
    for step in steps:
        step()
    recheck()
    settle(webhooks=False)

    found = state(number)
    assert found == EXPECTED[history], (seed, found)
    # And told all over again, in every order, nothing moves.
    forget_the_news()
    for event in chance.sample(events, len(events)):
        deliver(event)
    recheck()
    settle(webhooks=False)
    assert state(number) == found
    assert not Delivery.objects.exclude(state="done").exists()
    assert not SagaRun.objects.filter(state__in=["running", "compensating", "compensation_failed"]).exists()


@pytest.mark.parametrize("manner", ["shuffle", "duplicate", "hold"])
def test_webhooks_that_come_shuffled_doubled_or_late_end_the_same(busy_shop, delivering, manner):
    """Over HTTP, signed, as the provider sends them; what was held comes at once, shuffled."""
    delivering.control("POST", "webhooks", {"mode": manner, "copies": 3})
    body = declined_then_paid(busy_shop, delivering)
    if manner == "hold":
        settle(webhooks=False)
        assert not InboxEvent.objects.exists()
        delivering.control("POST", "webhooks", {"mode": "shuffle"})
    while delivering.control("GET", "webhooks")["waiting"]:
        settle(webhooks=False)
    settle(webhooks=False)
    assert InboxEvent.objects.filter(type="payment_intent.succeeded").count() == 1
    assert state(body["order"]["number"]) == PAID


FEE = 74  # 2.9 % of 15.00, and 30
PAID = {
    "order": "paid",
    "payment": ("succeeded", 1500, True, ""),
    "refunds": [],
    "entries": ["capture", "fee", "sale"],
    "postings": sorted(
        [
            ("provider_clearing", 1500), ("customer", -1500),
            ("fees", FEE), ("provider_clearing", -FEE),
            ("customer", 1500), ("merchant_payable", -1500),
        ]
    ),
    "told": ["payments.payment_captured.v1"],
}  # fmt: skip
EXPECTED: dict[str, dict[str, Any]] = {
    "declined, 3-D Secure failed, paid": PAID,
    "confirmed by us": PAID,
    "cancelled at the provider": {
        "order": "pending",
        "payment": ("cancelled", 0, False, ""),
        "refunds": [],
        "entries": [],
        "postings": [],
        "told": [],
    },
}
