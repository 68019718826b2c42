"""Store credit at the desk: granted on a customer's account, decided on by a second person, given instead of a refund."""

import pytest
from django.contrib.admin.models import LogEntry

from catalog.models import Merchant
from foundation.ids import uuid7
from payments import ledger
from payments.models import Account, CreditGrant, Payment, Refund
from tests.admin.conftest import list_url, page_url
from tests.admin.test_acts import press
from tests.credit import credit, grant, points
from tests.shop import settle


@pytest.fixture
def account(shop) -> Account:
    """Of a customer who has bought once."""
    Merchant.objects.update(loyalty_rate_bp=10_000)
    shop.bought()
    return Account.objects.get(pk=ledger.customer_account(shop.merchant_id, "cust-1", "usd").id)


def test_a_manager_grants_credit_with_a_reason_and_a_second_press_gives_nothing(as_role, shop, account):
    fields = {"grant": str(uuid7()), "amount": "5.00", "note": "a late parcel"}
    for _ in range(2):
        assert press(as_role("manager"), account, "grant", **fields).status_code == 200
    assert credit(shop) == (500, 0)
    given = CreditGrant.objects.get()
    assert (given.reason, given.requested_by) == ("a late parcel", "manager")
    assert LogEntry.objects.filter(change_message__contains="a late parcel").exists()


def test_the_page_shows_all_that_the_customer_has(as_role, shop, account):
    grant(shop, 500)
    page = as_role("clerk").get(page_url(account)).content.decode()
    assert points(shop) == 15
    for shown in ("Store Credit, USD", "$5.00", "Points, PTS", "15 points"):
        assert shown in page, shown
    found = as_role("clerk").get(list_url(Account), {"q": "cust-1"}).content.decode()
    assert "Store credit cust-1, USD" in found


@pytest.mark.parametrize("role", ["clerk", "operator"])
def test_only_managers_grant(as_role, shop, account, role):
    fields = {"grant": str(uuid7()), "amount": "5.00", "note": "please"}
    assert press(as_role(role), account, "grant", **fields).status_code == 403
    assert credit(shop) == (0, 0)


@pytest.mark.parametrize(
    "fields", [{"amount": "5.00", "note": ""}, {"amount": "5.001", "note": "x"}, {"amount": "0", "note": "x"}]
)
def test_a_grant_without_a_reason_or_an_amount_is_refused(as_role, shop, account, fields):
    assert press(as_role("manager"), account, "grant", grant=str(uuid7()), **fields).status_code == 400
    assert credit(shop) == (0, 0)


def test_nothing_is_granted_in_points_or_on_an_account_of_the_books(as_role, shop, account):
    client = as_role("manager")
    for kind in ("points", "merchant_payable"):
        page = client.get(page_url(Account.objects.get(kind=kind))).content.decode()
        assert "Grant store credit" not in page


def test_above_the_limit_a_second_person_decides(as_role, shop, account):
    Merchant.objects.update(refund_approval_above_minor=400)
    press(as_role("manager"), account, "grant", grant=str(uuid7()), amount="5.00", note="a late parcel")
    waiting = CreditGrant.objects.get()
    assert credit(shop) == (0, 0)
    refused = press(as_role("manager"), waiting, "approve", note="fine by me")
    assert refused.status_code == 403
    assert press(as_role("superuser"), waiting, "approve", note="checked").status_code == 200
    waiting.refresh_from_db()
    assert (waiting.status, waiting.decided_by, waiting.decided_why) == ("granted", "superuser", "checked")
    assert credit(shop) == (500, 0)
    assert press(as_role("superuser"), waiting, "refuse", note="too late").status_code == 409


def test_a_refund_can_become_store_credit(as_role, shop, account):
    press(as_role("manager"), Payment.objects.get(), "refund", amount="5.00", as_credit="on", note="the card is closed")
    settle()
    refund = Refund.objects.get()
    assert (refund.status, refund.amount_minor, refund.credit_minor) == ("succeeded", 0, 500)
    assert (credit(shop), points(shop)) == ((500, 0), 10)
