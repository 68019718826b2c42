"""What one cause explains is one incident: by the gap of news it lies in, else by kind, endpoint and time."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pytest

from foundation.database import database_now
from foundation.ids import uuid7
from payments.models import InboxEvent, Payment
from reconciliation import selectors, services
from reconciliation.models import Discrepancy, Incident, ProviderTransaction
from reconciliation.types import Action, ActionInput, Cause, Kind
from tests.reconciliation.ledgers import DAY, booked, both, ours, the, theirs
from tests.reconciliation.test_actions import act

pytestmark = pytest.mark.usefixtures("transactional_db", "valkey")
_events = count(1)


def at(clock: str, day: datetime = DAY) -> datetime:
    hours, minutes = clock.split(":")
    return day + timedelta(hours=int(hours), minutes=int(minutes))


def told(*clocks: str, about: str = "pi_somebody_elses") -> None:
    """The provider's events that reached us, by its clock."""
    for clock in clocks:
        InboxEvent.objects.create(
            id=f"evt_{next(_events)}", type="payment_intent.succeeded", object_id=about, intent_id=about,
            livemode=False, provider_created_at=at(clock),
        )  # fmt: skip


def missing(*clocks: str, day: datetime = DAY, **fields: Any) -> None:
    """Charges of 15.00 that we do not know: `ch_0220` for 02:20."""
    for clock in clocks:
        theirs(f"ch_{day:%d}{clock.replace(':', '')}", at=at(clock, day), **fields)


def incident_of(source: str) -> Incident:
    return Incident.objects.get(discrepancies__source=source)


def together() -> set[frozenset[str]]:
    """The sources of each incident's items."""
    found: dict[object, set[str]] = {}
    for incident_id, source in Discrepancy.objects.values_list("incident_id", "source"):
        found.setdefault(incident_id, set()).add(source)
    assert None not in found
    return {frozenset(sources) for sources in found.values()}


def sources(*names: Iterable[str]) -> set[frozenset[str]]:
    return {frozenset(group) for group in names}


def test_an_incident_stays_open_while_its_items_are_ignored(reconcile):
    missing("02:20")
    reconcile()
    item = the("ch_100220")
    until = database_now().date() + timedelta(days=30)
    act(item, Action.IGNORE_UNTIL, given=ActionInput(until=until))
    incident = incident_of("ch_100220")
    assert (incident.closed_at, incident.open_items, incident.open_value) == (None, 1, {"usd": 1500})
    act(item, Action.ACCEPT)
    assert incident_of("ch_100220").closed_at


def test_the_worked_example_of_the_documents(reconcile):
    """docs/reconciliation.md, "What belongs together"."""
    told("01:52", "02:01", "02:10", "03:25", "03:30", "03:38", "04:25", "04:34", "05:27", "05:35")
    theirs("ch_1", 1500, at=at("02:20"))
    theirs("ch_2", 2000, at=at("02:50"))
    ours("ch_3", 1500, at=at("03:00"), status="pending")
    theirs("ch_3", 1500, at=at("03:00"))
    theirs("ch_4", 900, at=at("03:20"), currency="eur")
    theirs("ch_5", 1500, at=at("03:34"))
    theirs("ch_6", 500, at=at("04:30"))
    theirs("ch_7", 500, at=at("05:31"))
    theirs("re_1", -500, at=at("03:34"), payment_intent="")
    reconcile()
    assert together() == sources(["ch_1", "ch_2", "ch_3", "ch_4"], ["ch_5", "ch_6"], ["ch_7"], ["re_1"])
    gap = Incident.objects.get(cause=Cause.WEBHOOK_GAP)
    assert (gap.gap_since, gap.gap_until) == (at("02:10"), at("03:25"))
    assert (gap.first_at, gap.last_at) == (at("02:20"), at("03:20"))
    assert (gap.items, gap.open_items, gap.value) == (4, 4, {"usd": 5000, "eur": 900})
    assert selectors.incident_page(gap).hint.startswith(
        "No webhook arrived between 10 Jan 02:10 and 03:25 UTC; of that time: 3 × missing in our system, 1 × statuses differ."
    )


def test_an_event_about_the_object_itself_says_that_news_were_not_lost(reconcile):
    told("02:10", "03:25")
    told("03:26", about="pi_100220")  # late, and here
    missing("02:20", "02:21")
    reconcile()
    assert {source: incident_of(source).cause for source in ("ch_100220", "ch_100221")} == {
        "ch_100220": Cause.SAME_KIND, "ch_100221": Cause.WEBHOOK_GAP,
    }  # fmt: skip


def test_what_news_would_not_have_healed_lies_in_no_gap(reconcile):
    told("02:10", "03:25")
    ours("ch_1", 1400, at=at("02:30"))
    theirs("ch_1", 1500, at=at("02:30"))
    reconcile()
    assert incident_of("ch_1").cause == Cause.SAME_KIND


def test_a_gap_that_has_not_ended_ends_with_the_next_news(reconcile):
    told("02:10")
    missing("02:20")
    reconcile()
    gap = Incident.objects.get()
    assert (gap.gap_until, "No webhook has arrived since" in selectors.incident_page(gap).hint) == (None, True)
    told("05:00")
    missing("04:50")
    reconcile()
    gap.refresh_from_db()
    assert (gap.gap_until, gap.items) == (at("05:00"), 2)


def test_without_a_gap_the_same_kind_in_a_row_is_one_incident_until_a_pause(reconcile):
    """50 minutes apart: one. 61 minutes after that: another. A fee is another kind."""
    missing("10:00", "10:50", "11:40", "12:41")
    theirs("re_1", -500, at=at("10:10"), payment_intent="")
    reconcile()
    assert together() == sources(["ch_101000", "ch_101050", "ch_101140"], ["ch_101241"], ["re_1"])
    first = Incident.objects.get(items=3)
    assert (first.kind, first.endpoint, first.value) == (Kind.MISSING_IN_OUR_SYSTEM, "charges", {"usd": 4500})
    assert (first.first_at, first.last_at) == (at("10:00"), at("11:40"))


def test_what_fills_the_pause_later_joins_the_earlier_and_numbers_stay(reconcile):
    missing("10:00", "12:41")
    reconcile()
    numbers = {source: incident_of(source).number for source in ("ch_101000", "ch_101241")}
    missing("10:55", "11:50")
    reconcile()
    reconcile()  # a repeat changes nothing
    assert together() == sources(["ch_101000", "ch_101055", "ch_101150"], ["ch_101241"])
    assert {source: incident_of(source).number for source in numbers} == numbers
    assert Incident.objects.count() == 2


def test_each_installation_and_each_category_is_a_cause_of_its_own(reconcile):
    for number, instance in enumerate(["north", "north", "south"]):
        theirs(f"ch_{number}", at=at("10:00"), metadata={"instance": instance})
    booked("", -5, "tulip_futures", at=at("10:00"))
    booked("", -7, "risk_reserved_funds", at=at("10:00"))
    reconcile()
    marks = dict(Incident.objects.values_list("mark", "items"))
    assert marks == {"north": 2, "south": 1, "tulip_futures": 1, "risk_reserved_funds": 1}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_order_of_runs_makes_no_difference(reconcile, order):
    """Around midnight, 20 minutes apart."""
    days = [DAY, DAY + timedelta(days=1)]
    missing("22:00", "23:50", day=days[0])
    missing("00:10", "08:00", day=days[1])
    for number in order:
        reconcile(days[number])
    assert together() == sources(["ch_102200"], ["ch_102350", "ch_110010"], ["ch_110800"])


def test_an_incident_closes_with_its_last_item_and_opens_again_with_it(reconcile):
    missing("10:00", "10:10")
    reconcile()
    incident = Incident.objects.get()
    healed = ours("ch_101000", at=at("10:00"))
    reconcile()
    incident.refresh_from_db()
    assert (incident.open_items, incident.closed_at, incident.open_value) == (1, None, {"usd": 1500})
    ours("ch_101010", at=at("10:10"))
    reconcile()
    incident.refresh_from_db()
    assert (incident.items, incident.open_items, incident.open_value) == (2, 0, {})
    closed_at = incident.closed_at
    assert closed_at
    Payment.objects.filter(pk=healed.pk).delete()
    reconcile()
    incident.refresh_from_db()
    assert (incident.open_items, incident.closed_at) == (1, None)
    assert incident.opened_at > closed_at
    assert Incident.objects.count() == 1


def test_what_a_person_decides_is_counted_at_once(reconcile):
    missing("10:00", "10:10")
    reconcile()
    act(the("ch_101000"), Action.ACCEPT)
    incident = Incident.objects.get()
    assert (incident.items, incident.open_items) == (2, 1)
    act(the("ch_101010"), Action.ACCEPT)
    assert Incident.objects.get().closed_at


def test_what_is_timing_stands_in_no_incident_until_it_is_a_break(reconcile):
    both("ch_other", at=at("12:00"))
    missing("23:30")
    midnight = DAY + timedelta(days=1)
    reconcile(now=midnight + timedelta(minutes=20))
    assert (the("ch_102330").state, the("ch_102330").incident) == ("timing", None)
    reconcile(now=midnight + timedelta(minutes=70))
    assert the("ch_102330").incident


def test_all_items_of_an_incident_are_acted_on_at_once(reconcile):
    missing("10:00", "10:10", "10:20")
    missing("15:00")
    reconcile()
    incident = Incident.objects.get(items=3)
    bulk = services.plan_bulk(
        bulk_id=uuid7(),
        action=Action.ACCEPT,
        discrepancies=list(incident.discrepancies.values_list("pk", flat=True)),
        by="mia",
        scope="an incident",
        incident_id=incident.pk,
    )
    services.carry_out(bulk_id=bulk.pk, by="mia", note="a payment link of marketing's")
    assert services.work_on_bulk() == 3
    incident.refresh_from_db()
    assert (incident.open_items, incident.closed_at is not None) == (0, True)
    assert the("ch_101500").state == "open"
    assert ProviderTransaction.objects.count() == 4
