"""Closing a month on the desk, and reopening it by two people."""

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from reconciliation.models import Period, PeriodReopening
from tests.admin.conftest import act_url, list_url, page_url
from tests.reconciliation.conftest import reconcile  # noqa: F401  a fixture
from tests.reconciliation.ledgers import both, theirs
from tests.reconciliation.months import JANUARY, LAST, NOON, is_provable, late_charge

pytestmark = pytest.mark.django_db(transaction=True)


def press(client: Client, row: Period, act: str, **fields: object):
    return client.post(act_url(row, act), {f"{act}-{name}": value for name, value in fields.items()}, follow=True)


@pytest.fixture
def january(reconcile, settings) -> Period:  # noqa: F811
    """A charge in both books, and one that only the provider knows."""
    settings.BOOKS_SETTLE_WAIT_S = settings.BOOKS_REPORT_WAIT_S = 20
    both("ch_1", at=NOON)
    theirs("ch_2", 2000, at=NOON)
    reconcile(LAST)
    is_provable()
    return Period.objects.get(pk=JANUARY)


def state(row: Period) -> str:
    row.refresh_from_db()
    return row.state


def test_a_month_is_closed_and_reopened_by_two_and_says_what_changed(as_role, january, reconcile):  # noqa: F811
    manager = as_role("manager")
    second = User.objects.create(username="second_manager", is_staff=True)
    second.groups.add(Group.objects.get(name="manager"))
    other = Client()
    other.force_login(second)

    assert "January 2026" in manager.get(list_url(Period)).content.decode()
    assert "Open items: 1" in manager.get(page_url(january)).content.decode()
    assert press(manager, january, "close", note="month's end").status_code == 409
    press(manager, january, "close", note="month's end", carry_open="on", without_balance="on")
    assert state(january) == "closed"
    page = manager.get(page_url(january)).content.decode()
    for told in (
        "Statement of closing 1, USD",
        "Proofs of closing 1, USD",
        "not proved",
        "once",
        "$33.52",
        "by manager",
        "month&#x27;s end (without Stripe&#x27;s balance in USD)",
    ):
        assert told.removeprefix("by ") in page, told

    late_charge(reconcile)
    press(manager, january, "ask_reopening", note="a row came late")
    assert press(manager, january, "approve_reopening", note="I am sure").status_code == 403
    assert state(january) == "reopening"
    assert "a row came late" in other.get(page_url(january)).content.decode()
    press(other, january, "approve_reopening", note="I have seen it")
    assert state(january) == "open"
    asked = PeriodReopening.objects.get()
    assert (asked.asked_by, asked.decided_by, asked.decision) == ("manager", "second_manager", "approved")

    press(other, january, "close", note="now it is right", carry_open="on", without_balance="on")
    page = other.get(page_url(january)).content.decode()
    for told in ("What changed since closing 1", "$72.78", "a row came late", "I have seen it"):
        assert told in page, told


def test_a_refusal_keeps_it_closed(as_role, january):
    manager = as_role("manager")
    press(manager, january, "close", note="month's end", carry_open="on", without_balance="on")
    press(manager, january, "ask_reopening", note="a row came late")
    press(manager, january, "refuse_reopening", note="it did not")
    assert state(january) == "closed"


@pytest.mark.parametrize("role", ["clerk", "operator"])
def test_only_managers_close_and_reopen(as_role, january, role):
    client = as_role(role)
    assert client.get(page_url(january)).status_code == 200
    for act in ("close", "ask_reopening", "approve_reopening", "refuse_reopening"):
        assert press(client, january, act, note="let me").status_code == 403, act
    assert state(january) == "open"
