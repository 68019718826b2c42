"""Many discrepancies at once at the desk: chosen, previewed, confirmed with a note; and incidents."""

import pytest
from django.contrib.auth.models import Permission, User
from django.urls import reverse

from foundation.ids import uuid7
from reconciliation import services
from reconciliation.models import BulkAction, Discrepancy, DiscrepancyAction, Incident
from tests.admin.conftest import list_url, page_url
from tests.admin.test_acts import press
from tests.reconciliation.conftest import reconcile
from tests.reconciliation.ledgers import ours, theirs

__all__ = ["reconcile"]
pytestmark = pytest.mark.usefixtures("transactional_db", "valkey")
PLAN = reverse("admin:reconciliation_discrepancy_plan")


@pytest.fixture
def three(reconcile) -> list[Discrepancy]:
    """15.00 and 20.00 missing in our system, 14.00 beside 15.00."""
    theirs("ch_1")
    theirs("ch_2", 2000)
    ours("ch_3", 1400)
    theirs("ch_3", 1500)
    reconcile()
    return list(Discrepancy.objects.order_by("source"))


def plan(client, query: str, action: str, **fields):
    data = {"key": str(uuid7()), "action": action, **fields}
    return client.post(f"{PLAN}?{query}", data, follow=True)


def test_chosen_in_the_list_previewed_confirmed_and_done(as_role, three):
    client = as_role("manager")
    chosen = client.post(
        list_url(Discrepancy), {"action": "act_on_chosen", "_selected_action": [str(one.pk) for one in three[:2]]}
    )
    assert chosen.status_code == 302
    address = chosen["Location"]
    form = client.get(reverse("admin:reconciliation_discrepancy_changelist") + address).content.decode()
    assert "2 items" in form
    assert "Accept the difference" in form
    assert "Split the difference" not in form  # not for many
    answer = plan(client, address.partition("?")[2], "accept")
    page = answer.content.decode()
    bulk = BulkAction.objects.get()
    assert "A preview: 2 of 2 can be done" in page
    assert "$35.00" in page
    assert not DiscrepancyAction.objects.exists()
    assert press(client, bulk, "do_accept", note="").status_code == 400  # not without a note
    press(client, bulk, "do_accept", note="marketing's link")
    assert "data-refresh-s" in client.get(page_url(bulk)).content.decode()
    services.work_on_bulk()
    page = client.get(page_url(bulk)).content.decode()
    assert "2 of 2 done" in page
    assert "data-refresh-s" not in page
    assert set(DiscrepancyAction.objects.values_list("by", "note")) == {("manager", "marketing's link")}
    assert client.get(list_url(BulkAction)).status_code == 200


def test_what_is_above_a_clerks_limit_is_told_before_and_only_asked_for(as_role, three, settings):
    """15.00 and 1.00 a clerk may settle alone here, 20.00 not."""
    settings.SETTLE_ALONE_MINOR = {"clerk": {"usd": 1_500}, "manager": {"usd": 100_000}}
    clerk, manager = as_role("clerk"), as_role("manager")
    page = plan(clerk, "", "accept").content.decode()
    bulk = BulkAction.objects.get()
    assert "A preview: 3 of 3 can be done" in page
    assert "1 of them you can only ask for" in page
    above, others = page.split("<h3>Above what you may settle alone")[1].split("<h3>Rows")
    assert "ch_2" in above
    assert "It settles more than $15.00, which you may settle alone" in above
    assert "ch_1" in others
    assert "ch_3" in others
    assert "you can only ask for" not in manager.get(page_url(bulk)).content.decode()  # a manager may settle 1,000.00

    press(clerk, bulk, "do_accept", note="marketing's link")
    services.work_on_bulk()
    page = clerk.get(page_url(bulk)).content.decode()
    assert "2 of 3 done" in page
    assert "1 asked for: a second person decides" in page
    asked = three[1]
    asked.refresh_from_db()
    assert (asked.source, asked.state) == ("ch_2", "awaiting_approval")
    assert press(clerk, asked, "approve", note="I agree with myself").status_code in (403, 409)
    asked.refresh_from_db()
    assert asked.state == "awaiting_approval"
    press(manager, asked, "approve", note="I have seen it")
    asked.refresh_from_db()
    assert (asked.state, asked.resolved_by) == ("resolved", "clerk")


def test_all_that_a_filter_shows_is_bounded_and_says_what_cannot(as_role, three, settings):
    client = as_role("manager")
    page = plan(client, "kind=missing_in_our_system", "refund_customer").content.decode()
    assert "Its metadata name no order, so no customer: choose one on its page." in page
    bulk = BulkAction.objects.get()
    assert [row.state for row in bulk.rows.all()] == ["refused", "refused"]
    assert "Do it" not in page
    settings.RECONCILE_BULK_ROWS = 2
    plan(client, "", "claim")
    last = BulkAction.objects.latest("pk")
    assert (last.rows.count(), "the first 2" in last.scope) == (2, True)


def test_what_is_sent_twice_is_planned_once_and_errors_are_told(as_role, three):
    client, key = as_role("manager"), str(uuid7())
    for _ in range(2):
        plan(client, "", "claim", key=key)
    assert BulkAction.objects.count() == 1
    assert plan(client, "", "ignore_until", until="2020-01-01").status_code == 400
    assert plan(client, "", "no_such_action").status_code == 400
    assert client.get(f"{PLAN}?chosen=nonsense").status_code == 404
    assert client.get(f"{PLAN}?incident=inc_nonsense").status_code == 404
    assert BulkAction.objects.count() == 1


def test_a_person_plans_only_what_that_person_may_do(as_role, three):
    trainee = as_role("nobody")
    assert trainee.get(PLAN).status_code == 403
    may = Permission.objects.filter(codename__in=("view_discrepancy", "view_bulkaction", "investigate_discrepancy"))
    User.objects.get(username="nobody").user_permissions.set(may)
    form = trainee.get(PLAN).content.decode()
    assert "Claim" in form
    assert "Accept the difference" not in form
    assert plan(trainee, "", "accept").status_code == 400
    plan(as_role("manager"), "", "accept")
    bulk = BulkAction.objects.get()
    assert press(trainee, bulk, "do_accept", note="please").status_code == 403
    # a trainee's own button, on a manager's plan
    assert press(trainee, bulk, "do_investigate", note="please").status_code == 403
    bulk.refresh_from_db()
    assert bulk.state == "planned"
    assert as_role("operator").get(PLAN).status_code == 200
    assert "nothing here that your role" in as_role("operator").get(PLAN).content.decode()


def test_an_incident_tells_its_cause_and_all_its_items_are_acted_on(as_role, three):
    client = as_role("manager")
    incident = Incident.objects.get(items=2)
    listed = client.get(list_url(Incident)).content.decode()
    assert "Missing in our system" in listed
    assert "$35.00" in listed
    page = client.get(page_url(incident)).content.decode()
    for told in ("What probably lies behind it", "payment link", "ch_1", "ch_2", "Act on all open items"):
        assert told in page, told
    plan(client, f"incident={incident.number}", "accept")
    bulk = BulkAction.objects.get()
    assert (bulk.incident_id, bulk.rows.count()) == (incident.pk, 2)
    press(client, bulk, "do_accept", note="marketing's link")
    services.work_on_bulk()
    assert page_url(incident) not in client.get(list_url(Incident)).content.decode()
    assert page_url(incident) in client.get(list_url(Incident), {"state": "closed"}).content.decode()
    assert page_url(incident) in client.get(page_url(three[0])).content.decode()


def test_a_difference_is_split_on_its_page(as_role, books):
    books.sell(2)
    books.plant("amount_mismatch", 2)
    books.reconcile()
    item = Discrepancy.objects.get(difference_minor=2)
    client, key = as_role("manager"), str(uuid7())
    fields = {"account_1": "fees", "amount_1": "0.01", "account_2": "rounding", "amount_2": "0.02"}
    answer = press(client, item, "split", note="half and half", key=key, account_3="write_offs", amount_3="", **fields)
    assert answer.status_code == 400
    fields["amount_2"] = "0.01"
    press(client, item, "split", note="half and half", key=key, account_3="write_offs", amount_3="", **fields)
    item.refresh_from_db()
    assert (item.state, item.closed_as) == ("resolved", "fixed")
