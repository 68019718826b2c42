"""A second provider is one module: here a clerk with a book on paper sells, declines, forgets and refunds.

Of the product nothing was changed for it, and of the tests nothing but `paper.py`: the setting names it. No Stripe
sandbox runs, and where Stripe would be nobody listens.
"""

import importlib

import pytest
from django.urls import clear_url_caches

import config.urls
import payments.urls
from payments import gateway
from payments import services as payment_services
from payments.models import InboxEvent, JournalEntry, Payment, Posting, Refund
from reconciliation import services as reconciliation
from tests.payments import paper
from tests.shop import open_shop, settle

PAID = {"method": "card", "payment_method": paper.NOTE, "confirm": True}
TORN = {"method": "card", "payment_method": paper.TORN_NOTE, "confirm": True}


def choose(settings, provider: str) -> None:
    """What a start of the process does with the setting."""
    settings.PAYMENT_PROVIDER = provider
    for module in (gateway, payments.urls, config.urls):
        importlib.reload(module)
    clear_url_caches()


@pytest.fixture
def shop(transactional_db, valkey, settings):
    """A shop with ten copies of one book at 15.00 USD, and the clerk."""
    shipped = settings.PAYMENT_PROVIDER
    choose(settings, paper.__name__)
    paper.open_a_new_book()
    shop = open_shop()
    shop.stock("book", 10)
    yield shop
    choose(settings, shipped)


def entries() -> dict[str, int]:
    """Kind → Σ of its debits, minor units."""
    found: dict[str, int] = {}
    for entry in JournalEntry.objects.all():
        debits = [one.amount_minor for one in Posting.objects.filter(entry=entry) if one.amount_minor > 0]
        found[entry.kind] = found.get(entry.kind, 0) + sum(debits)
    return found


def test_a_whole_sale(shop):
    order = shop.bought(quantity=2)
    assert (order["status"], order["payments"][0]["status"]) == ("paid", "succeeded")
    assert order["payments"][0]["provider_reference"] in paper.book.intents
    assert entries() == {"capture": 3000, "fee": paper.FEE_MINOR, "sale": 3000}
    assert shop.level() == (8, 0)


def test_a_sale_that_the_browser_confirms(shop):
    answer = shop.checkout().json()
    assert answer["payment"]["client_secret"]
    paper.pay(answer["payment"]["provider_reference"])
    settle()
    assert shop.order(answer["order"]["number"])["status"] == "paid"


def test_a_decline(shop):
    answer = shop.checkout(payment=TORN)
    assert (answer.status_code, answer.json()["code"]) == (402, "card_declined")
    settle()
    order = shop.order(answer.json()["order"]["number"])
    assert (order["status"], order["payments"][0]["status"]) == ("pending", "failed")
    assert [intent.status for intent in paper.book.intents.values()] == ["canceled"]
    assert entries() == {}


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_answer_that_was_lost_is_one_charge(shop, when):
    paper.fail_next(when)
    answer = shop.checkout(payment=PAID).json()
    assert answer["payment"]["status"] == "processing"
    assert Payment.objects.get().status == "unknown"
    settle()
    assert shop.order(answer["order"]["number"])["status"] == "paid"
    assert [row.amount_minor for row in paper.book.bookings] == [1500]


def test_a_refund(shop):
    payment = shop.bought()["payments"][0]["number"]
    shop.post(f"/payments/{payment}/refunds", {"amount": 500, "reason": "a torn page"})
    settle()
    assert Refund.objects.get().status == "succeeded"
    assert [row.amount_minor for row in paper.book.bookings] == [1500, -500]
    assert entries() == {"capture": 1500, "fee": 25, "sale": 1500, "refund_hold": 500, "refund": 500}


def test_a_refund_whose_answer_was_lost_is_made_once(shop):
    payment = shop.bought()["payments"][0]["number"]
    paper.fail_next("after")
    shop.post(f"/payments/{payment}/refunds", {"reason": "a torn page"})
    settle()
    assert Refund.objects.get().status == "succeeded"
    assert [row.amount_minor for row in paper.book.bookings] == [1500, -1500]


def test_a_refund_that_comes_back_weeks_later(shop):
    payment = shop.bought()["payments"][0]["number"]
    shop.post(f"/payments/{payment}/refunds", {"reason": "a torn page"})
    settle()
    paper.bring_back(Refund.objects.get().provider_reference or "")
    settle()
    assert Refund.objects.get().status == "failed"
    assert entries()["refund_failed_late"] == 1500
    assert Payment.objects.get().refunded_minor == 0  # owed again, and can be refunded again


def test_its_messenger_comes_to_a_door_of_its_own(shop):
    answer = shop.checkout().json()
    paper.pay(answer["payment"]["provider_reference"])
    body, headers = paper.webhook_of(paper.book.events[-1])
    post = shop.storefront.post
    said = post("/api/v1/webhooks/paper", body, content_type="application/json", headers=headers)
    assert (said.status_code, said.json()["new"]) == (200, True)
    assert InboxEvent.objects.get().id == paper.book.events[-1].id
    forged = post("/api/v1/webhooks/paper", body, content_type="application/json", headers={paper.SIGNATURE: "x"})
    assert forged.status_code == 400
    settle(webhooks=False)
    assert shop.order(answer["order"]["number"])["status"] == "paid"


def test_its_books_are_reconciled(shop):
    shop.bought()
    payment = shop.bought()["payments"][0]["number"]
    shop.post(f"/payments/{payment}/refunds", {"amount": 500, "reason": "a torn page"})
    settle()
    report = reconciliation.reconcile_day(day=paper.book.bookings[0].created_at.date(), by="test")
    assert (report.kinds, report.matched, report.residual) == ({}, 3, {"usd": 0})


def test_a_provider_that_lacks_a_verb_ends_the_process_at_its_start(shop, settings, monkeypatch):
    monkeypatch.delattr(paper, "find_refund")
    with pytest.raises(AttributeError, match="find_refund"):
        choose(settings, paper.__name__)


def test_nothing_of_the_product_knows_it(shop):
    """The guard of this file: what is asked goes to the clerk."""
    assert gateway.NAME == "paper"
    assert payment_services.client_secret(shop.checkout().json()["payment"]["number"]).startswith("the word for")
