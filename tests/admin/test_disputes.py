"""Disputes and payouts on the desk: what waits for an answer, until when, and what a payout is made of."""

from typing import Any

import pytest

from orders.models import Order
from payments import services as payments
from payments.models import Dispute, Payment, Payout
from tests.admin.conftest import act_url, list_url, page_url


def disputed(books: Any, **body: Any) -> Dispute:
    payment = Payment.objects.get(reference=books.sell()[0]["number"])
    made = books.sandbox.control("POST", "disputes", {"payment_intent": payment.provider_reference, **body})
    payments.sync_dispute(made["id"], by="test")
    return Dispute.objects.get(provider_reference=made["id"])


@pytest.fixture
def in_court(books) -> dict[str, Dispute]:
    """The sandbox's clock says yesterday noon: what is due in a day from there is due in some hours."""
    soon = disputed(books, due_in_s=36 * 3600)
    later = disputed(books, due_in_s=9 * 86400)
    late = disputed(books, due_in_s=3600)
    decided = disputed(books, due_in_s=36 * 3600)
    books.sandbox.control("POST", "disputes/outcome", {"dispute": decided.provider_reference, "status": "lost"})
    payments.sync_dispute(decided.provider_reference, by="test")
    return {"soon": soon, "later": later, "late": late, "decided": decided}


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", {"soon", "later", "late", "decided"}),
        ("?answer=needed", {"soon", "later", "late"}),
        ("?answer=due_in_48h", {"soon"}),
        ("?answer=overdue", {"late"}),
        ("?status=lost", {"decided"}),
    ],
)
def test_the_saved_views_show_what_waits_and_how_soon(as_role, in_court, query, shown):
    page = as_role("clerk").get(list_url(Dispute) + query).content.decode()
    assert {name for name, dispute in in_court.items() if dispute.number in page} == shown


def test_a_disputes_page_says_until_when_an_answer_counts_and_what_was_taken(as_role, books):
    dispute = disputed(books, reason="product_not_received")
    page = as_role("clerk").get(page_url(dispute)).content.decode()
    for told in (
        "product not received",
        f"{dispute.evidence_due_at:%d %b %Y, %H:%M:%S}",
        "dispute withdrawn",
        dispute.payment.number,
        dispute.payment.reference,
        "not while it is open",
    ):
        assert told in page, told


def test_an_order_wears_the_mark_in_its_list_and_on_its_page(as_role, books):
    dispute = disputed(books)
    other = books.sell()[0]
    client = as_role("clerk")
    page = client.get(list_url(Order) + "?dispute=open").content.decode()
    assert dispute.payment.reference in page
    assert other["number"] not in page
    story = client.get(page_url(Order.objects.get(pk=Order.id_of(dispute.payment.reference)))).content.decode()
    for told in ("disputed", dispute.number[-8:], "fraudulent"):
        assert told in story, told


def test_a_disputed_payment_offers_no_refund(as_role, books):
    dispute = disputed(books)
    client = as_role("manager")
    for row in (dispute.payment, Order.objects.get(pk=Order.id_of(dispute.payment.reference))):
        assert act_url(row, "refund") not in client.get(page_url(row)).content.decode()


def test_a_dispute_is_read_again_by_the_button_on_its_page(as_role, books):
    dispute = disputed(books)
    books.sandbox.control("POST", "disputes/outcome", {"dispute": dispute.provider_reference, "status": "won"})
    answer = as_role("clerk").post(act_url(dispute, "recheck"), {"recheck-note": "the bank called"})
    assert answer.status_code == 302
    dispute.refresh_from_db()
    assert dispute.status == "won"


def test_a_payouts_page_shows_its_transactions_and_that_they_add_up(as_role, books):
    books.sell(2)
    (made,) = books.sandbox.control("POST", "payouts", {"include_pending": True})["payouts"]
    payments.sync_payout(made["id"], by="test")
    payout = Payout.objects.get()
    page = as_role("clerk").get(page_url(payout)).content.decode()
    charges = payout.transactions.exclude(source=payout.provider_reference)
    for told in ("$28.52", "Σ net", "charge", *(row.pk[-8:] for row in charges)):
        assert told in page, told
    assert "ec-zero" in page  # the amount less the sum of what it is made of
    found = as_role("clerk").get(list_url(Payout), {"q": charges[0].pk}).content.decode()
    assert payout.number in found
