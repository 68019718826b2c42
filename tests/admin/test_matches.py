"""Why two records are one, on the desk: matches, candidates to choose from, and tolerances."""

from datetime import timedelta

import pytest
from django.urls import reverse

from reconciliation import services
from reconciliation.models import Link, Match, Tolerance
from tests.admin.conftest import act_url, list_url, page_url
from tests.factories import make_merchant
from tests.reconciliation.conftest import reconcile
from tests.reconciliation.ledgers import NOON, both, ours, the, theirs

__all__ = ["reconcile"]

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def proposed(reconcile):
    payment = ours("ch_1")
    for hours, source in ((2, "ch_8"), (1, "ch_9")):
        theirs(source, at=NOON + timedelta(hours=hours), metadata={"order": payment.reference})
    both("ch_3a", 700)  # `_3a` is no escaped character
    reconcile()
    return payment


def test_a_discrepancys_page_shows_its_candidates_best_first(as_role, proposed):
    page = as_role("clerk").get(page_url(the("ch_1"))).content.decode()
    assert page.index("ch_9") < page.index("fits best") < page.index("ch_8") < page.index("runner-up")
    assert "?q=ch_9" in page  # where it can be linked
    page = as_role("clerk").get(page_url(the("ch_9"))).content.decode()
    assert "What it may be in our books" in page
    assert proposed.number in page


def test_an_item_without_candidates_shows_none(as_role, reconcile):
    theirs("ch_1")
    reconcile()
    page = as_role("manager").get(page_url(the("ch_1"))).content.decode()
    assert "What it may be" not in page


def test_each_match_has_a_page_that_says_why(as_role, proposed):
    clerk = as_role("clerk")
    match = Match.objects.get()
    page = clerk.get(page_url(match)).content.decode()
    assert "Our books know the object by the id that Stripe gives it." in page
    assert match.number in page
    assert "ch_3a" in clerk.get(list_url(Match), {"q": "ch_3a"}).content.decode()
    assert "ch_3a" not in clerk.get(list_url(Match), {"rule": "metadata"}).content.decode()


def test_what_may_be_linked_is_offered_and_a_link_is_taken_back_with_a_reason(as_role, proposed, reconcile):
    clerk = as_role("clerk")
    other = the("ch_9")
    page = clerk.get(page_url(other)).content.decode()
    assert f'<option value="{proposed.number}">order {proposed.reference}, ' in page
    services.link_row(item=other, number=proposed.number, by="clara", why="the slip says so")
    reconcile()
    match = Match.objects.get(rule="person")
    assert "the slip says so" in clerk.get(page_url(match)).content.decode()
    taken_back = act_url(match, "end-link")
    assert as_role("operator").post(taken_back, {"end-link-note": "two sales"}).status_code == 403
    assert clerk.post(taken_back, {"end-link-note": ""}).status_code == 400
    assert clerk.post(taken_back, {"end-link-note": "two sales"}).status_code == 302
    link = Link.objects.get()
    assert (link.ended_by, link.ended_why) == ("clerk", "two sales")
    assert "They are not the same" not in clerk.get(page_url(match)).content.decode()
    reconcile()
    assert not Match.objects.filter(rule="person").exists()


def test_a_tolerance_is_set_and_ended_by_a_manager(as_role, db):
    merchant = make_merchant(name="Book shop")
    new = reverse("admin:reconciliation_tolerance_new")
    filled_in = {"set-merchant": str(merchant.id), "set-currency": "usd", "set-amount": "0.05", "set-note": "roundings"}
    assert as_role("clerk").post(new, filled_in).status_code == 403
    manager = as_role("manager")
    assert "new/" in manager.get(list_url(Tolerance)).content.decode()
    assert manager.get(new).status_code == 200
    assert manager.post(new, {**filled_in, "set-note": ""}).status_code == 400
    assert manager.post(new, {**filled_in, "set-amount": "10.01"}).status_code == 400
    assert manager.post(new, filled_in).status_code == 302
    assert manager.post(new, filled_in).status_code == 409
    row = Tolerance.objects.get()
    assert (row.merchant_id, row.amount_minor, row.by) == (merchant.id, 5, "manager")
    assert "Book shop" in manager.get(page_url(row)).content.decode()
    assert manager.post(act_url(row, "end"), {"end-note": "no more"}).status_code == 302
    row.refresh_from_db()
    assert (row.ended_by, row.ended_why) == ("manager", "no more")
