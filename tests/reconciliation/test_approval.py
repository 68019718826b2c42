"""Above what a person may settle alone it takes two, whichever action; PostgreSQL knows it too."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import DatabaseError, IntegrityError, transaction

from foundation.database import database_now
from foundation.errors import InvalidInput
from payments.errors import ProviderUnavailable, SecondPersonNeeded
from payments.models import Posting
from reconciliation import offers, selectors, services
from reconciliation.errors import AlreadyResolved, ApprovalPending, FiguresChanged, NoteMissing, NothingToApprove
from reconciliation.models import Discrepancy, DiscrepancyAction, ProviderTransaction
from reconciliation.services import repairs
from reconciliation.types import Action, ActionInput, ActionResult
from tests.races import orders
from tests.reconciliation.ledgers import DAY, NOON, booked, both, our_payout, ours, the, theirs
from tests.reconciliation.months import member
from tests.reconciliation.test_periods import violated

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def staff(transactional_db, settings):
    """A clerk who may settle 20.00 dollars alone, and two managers who may settle 1000.00."""
    settings.SETTLE_ALONE_MINOR = {"clerk": {"usd": 2_000}, "manager": {"usd": 100_000}}
    for name, role in (("clara", "clerk"), ("paul", "manager"), ("vera", "manager")):
        member(name, role)


def found_item(reconcile, ours_minor: int = 1500, theirs_minor: int = 5000, **fields: Any) -> Discrepancy:
    """Both sides know the charge, with different amounts."""
    ours("ch_1", ours_minor, **fields)
    theirs("ch_1", theirs_minor, **fields)
    reconcile()
    return the("ch_1")


def act(item: Discrepancy, action: str = Action.ACCEPT, *, by: str = "clara", **options: Any) -> ActionResult:
    result = services.perform(discrepancy_id=item.pk, action=action, by=by, note="checked with the bank", **options)
    item.refresh_from_db()
    return result


def waiting() -> DiscrepancyAction:
    return DiscrepancyAction.objects.get(outcome="waiting")


def approve(by: str = "paul") -> ActionResult:
    return services.approve_action(action_id=waiting().pk, by=by, note="I agree")


@pytest.mark.parametrize(("theirs_minor", "state"), [(3500, "resolved"), (3501, "awaiting_approval")])
def test_up_to_the_limit_a_person_settles_alone(reconcile, theirs_minor, state):
    assert act(found_item(reconcile, 1500, theirs_minor)).state == state


def test_above_it_nothing_is_done_and_both_see_why(reconcile):
    item = found_item(reconcile)
    result = act(item)
    assert (result.state, item.state) == ("awaiting_approval", "awaiting_approval")
    assert "$20.00" in result.text
    record = waiting()
    assert (record.by, record.amount_minor, record.currency, record.approval_above_minor) == (
        "clara",
        3500,
        "usd",
        2000,
    )
    assert [info.name for info in offers.offered_actions(item)] == [Action.REQUERY]
    assert item.history.latest("pk").to_state == "awaiting_approval"


def test_the_second_person_lets_it_happen_under_both_names(reconcile):
    item = found_item(reconcile)
    act(item)
    assert approve().state == "resolved"
    item.refresh_from_db()
    assert (item.closed_as, item.resolved_by) == ("accepted", "clara")
    record = DiscrepancyAction.objects.get()
    assert (record.by, record.approved_by, record.outcome) == ("clara", "paul", "ok")
    assert record.approved_at is not None
    with pytest.raises(AlreadyResolved):
        services.approve_action(action_id=record.pk, by="vera", note="I agree")


@pytest.mark.guard(15)
def test_nobody_approves_their_own(reconcile):
    act(found_item(reconcile, theirs_minor=200_000), by="paul")
    with pytest.raises(SecondPersonNeeded):
        approve("paul")
    with pytest.raises(NoteMissing):
        services.approve_action(action_id=waiting().pk, by="vera", note=" ")
    assert approve("vera").state == "resolved"


def test_a_refusal_leaves_it_to_be_looked_at_and_asked_for_again(reconcile):
    item = found_item(reconcile)
    act(item)
    with pytest.raises(ApprovalPending):
        act(item, by="paul", key="another press")  # even by who may settle it alone: decide on the first one
    services.reject_action(action_id=waiting().pk, by="paul", note="ask the bank first")
    item.refresh_from_db()
    assert item.state == "investigating"
    record = DiscrepancyAction.objects.get()
    assert (record.outcome, record.result) == ("rejected", "Refused by paul: ask the bank first")
    assert act(item).state == "awaiting_approval"
    assert approve().state == "resolved"


def test_a_press_that_is_sent_twice_waits_once(reconcile):
    item = found_item(reconcile)
    key = str(uuid4())
    assert not act(item, key=key).replayed
    assert act(item, key=key).replayed
    assert DiscrepancyAction.objects.count() == 1


def test_roles_currencies_and_those_who_are_nobody(settings):
    assert selectors.settles_alone_minor("clara", "usd") == 2_000
    assert selectors.settles_alone_minor("clara", "eur") == 0  # no limit is known there: everything waits
    User.objects.create(username="trainee", is_staff=True)
    assert selectors.settles_alone_minor("trainee", "usd") == 0
    member("both", "clerk")
    User.objects.get(username="both").groups.add(*User.objects.get(username="paul").groups.all())
    assert selectors.settles_alone_minor("both", "usd") == 100_000
    User.objects.create(username="root", is_superuser=True)
    assert selectors.settles_alone_minor("root", "usd") == 100_000  # as everybody, the most that a role may
    assert selectors.settles_alone_minor("nightly", "usd") == 0  # nobody that is known
    settings.JOBS_THAT_SETTLE = ["nightly", "clara"]
    assert selectors.settles_alone_minor("nightly", "usd") is None
    assert selectors.settles_alone_minor("clara", "usd") == 2_000  # a login is a person, whatever its name


def test_somebody_who_has_left_settles_nothing_alone(reconcile, settings):
    """What they confirmed for many at once is still done under their name."""
    settings.JOBS_THAT_SETTLE = []
    item = found_item(reconcile, 1500, 1501)
    User.objects.filter(username="clara").delete()
    assert act(item).waits
    assert (waiting().approval_above_minor, item.state) == (0, "awaiting_approval")


def test_what_differs_in_its_currency_counts_as_a_whole(reconcile):
    both("ch_0")
    ours("ch_1", 1500)
    theirs("ch_1", 2500, currency="eur")
    reconcile()
    act(the("ch_1"), by="paul")
    assert (waiting().amount_minor, waiting().currency, waiting().approval_above_minor) == (2500, "eur", 0)


def test_of_what_was_taken_from_our_bank_both_amounts_are_below_nothing_and_count_all_the_same(reconcile):
    """Where no difference can be told, or the amounts agree and what it collected does not."""
    our_payout("po_1", -5000)
    booked("po_1", 4600, "payout", currency="eur")
    our_payout("po_2", -6000, listed_at=NOON)  # nothing is listed that would make it
    booked("po_2", 6000, "payout")
    reconcile()
    (backlog,) = selectors.open_by_kind()
    assert backlog.total.value == {"eur": 4600, "usd": 0}
    weighs = {}
    for source in ("po_1", "po_2"):
        item = the(source)
        assert act(item).state == "awaiting_approval"
        weighs[source] = (item.difference_minor, item.value_minor, item.actions.get().amount_minor)
    assert weighs == {"po_1": (None, 4600, 5000), "po_2": (0, 0, 6000)}


def adjusted(reconcile, minor: int) -> Discrepancy:
    """Stripe changed our balance by an amount, and nobody told us."""
    booked("txn_adj", minor, "other_adjustment")
    reconcile()
    return Discrepancy.objects.get()


def grows(minor: int) -> None:
    ProviderTransaction.objects.update(amount_minor=minor, net_minor=minor)


def on_clearing() -> list[int]:
    return list(Posting.objects.filter(account__kind="provider_clearing").values_list("amount_minor", flat=True))


@pytest.mark.parametrize("action", [Action.POST_CORRECTION, Action.WRITE_OFF])
def test_a_difference_that_grew_since_it_was_shown_is_not_posted_but_shown_anew(reconcile, action):
    item = adjusted(reconcile, 1000)
    grows(900_000)
    with pytest.raises(FiguresChanged):
        act(item, action)
    item.refresh_from_db()
    assert (on_clearing(), item.state, item.difference_minor) == ([], "open", 900_000)
    assert DiscrepancyAction.objects.get().outcome == "failed"
    assert act(item, action).state == "awaiting_approval"


def test_a_difference_that_grew_since_it_was_asked_about_is_not_posted_by_the_old_approval(reconcile):
    item = adjusted(reconcile, 3500)
    act(item, Action.POST_CORRECTION)
    grows(900_000)
    with pytest.raises(FiguresChanged):
        approve()
    item.refresh_from_db()
    assert (on_clearing(), item.state, item.difference_minor) == ([], "investigating", 900_000)


def test_a_difference_that_grew_since_it_was_asked_about_is_not_accepted_by_the_old_approval(reconcile):
    item = adjusted(reconcile, 3500)
    act(item)
    grows(900_000)
    reconcile()
    with pytest.raises(FiguresChanged):
        approve()
    item.refresh_from_db()
    assert (item.state, waiting_count()) == ("investigating", 0)


def waiting_count() -> int:
    return DiscrepancyAction.objects.filter(outcome="waiting").count()


def test_a_difference_that_shrank_is_posted(reconcile):
    item = adjusted(reconcile, 3500)
    act(item, Action.POST_CORRECTION)
    grows(1200)
    assert approve().closed_as == "fixed"
    assert on_clearing() == [1200]


def test_what_is_asked_to_be_given_back_counts(reconcile):
    item = found_item(reconcile, 1500, 1600)
    act(item, Action.REFUND_CUSTOMER, given=ActionInput(amount_minor=2001))
    assert waiting().amount_minor == 2001


def test_a_claim_waits_for_nobody(reconcile):
    item = found_item(reconcile)
    assert act(item, Action.CLAIM).state == "investigating"
    assert DiscrepancyAction.objects.get().amount_minor is None


def test_what_is_to_be_ignored_waits_as_what_is_to_be_accepted(reconcile):
    """35.00 are off: out of sight they are as good as accepted."""
    item = found_item(reconcile)
    until = database_now().date() + timedelta(days=settings.RECONCILE_IGNORED_FOR_DAYS)
    assert act(item, Action.IGNORE_UNTIL, given=ActionInput(until=until)).waits
    assert approve().state == "ignored"
    item.refresh_from_db()
    assert (item.state, item.ignored_until) == ("ignored", until)
    with pytest.raises(InvalidInput, match="At most 90 days"):
        act(item, Action.IGNORE_UNTIL, given=ActionInput(until=until + timedelta(days=1)))


def test_what_was_ignored_comes_back_when_its_figures_change(reconcile):
    """0.01 was hidden for a quarter; the next day it is 90.00."""
    row = booked("", 1, "other_adjustment")
    reconcile()
    item = the(row)
    until = database_now().date() + timedelta(days=90)
    assert not act(item, Action.IGNORE_UNTIL, given=ActionInput(until=until)).waits
    reconcile()
    assert the(row).state == "ignored"
    ProviderTransaction.objects.filter(pk=row).update(amount_minor=9_000, net_minor=9_000)
    reconcile()
    assert (the(row).state, the(row).difference_minor) == ("open", 9_000)
    assert item.history.latest("id").why == "its figures have changed"


def test_what_heals_while_it_waits_is_not_done(reconcile):
    item = found_item(reconcile)
    act(item)
    theirs("ch_1", -3500)
    reconcile()
    item.refresh_from_db()
    assert (item.state, item.closed_as) == ("resolved", "auto")
    with pytest.raises(AlreadyResolved):
        approve()
    assert DiscrepancyAction.objects.get().outcome == "rejected"


def test_an_approved_action_that_fails_or_changes_nothing_is_looked_at_again(reconcile, monkeypatch):
    def fail(*_: Any) -> str:
        raise ProviderUnavailable

    item = found_item(reconcile)
    monkeypatch.setitem(repairs.REPAIRS, Action.POST_CORRECTION, fail)
    act(item, Action.POST_CORRECTION)
    with pytest.raises(ProviderUnavailable):
        approve()
    item.refresh_from_db()
    assert (item.state, DiscrepancyAction.objects.get().outcome) == ("investigating", "failed")
    monkeypatch.setitem(repairs.REPAIRS, Action.POST_CORRECTION, lambda *_: "Done.")
    act(item, Action.POST_CORRECTION)
    assert "remains" in approve().text
    item.refresh_from_db()
    assert item.state == "investigating"


def test_an_approval_whose_process_died_is_pressed_again(reconcile, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*_: Any) -> str:
        raise Killed

    item = found_item(reconcile)
    act(item)
    monkeypatch.setattr("reconciliation.services.approvals.carry_out", die)
    with pytest.raises(Killed):
        approve()
    record = DiscrepancyAction.objects.get()
    assert (record.outcome, record.approved_by) == ("started", "paul")
    monkeypatch.undo()
    with pytest.raises(NothingToApprove):  # it may still be under way
        services.approve_action(action_id=record.pk, by="paul", note="I agree")
    DiscrepancyAction.objects.update(lease_until=DAY)
    assert services.approve_action(action_id=record.pk, by="paul", note="I agree").state == "resolved"


@pytest.mark.parametrize("turns", orders("yes", "yes", "no", "no"))
def test_of_an_approval_and_a_refusal_at_once_one_counts(race, reconcile, turns):
    item = found_item(reconcile)
    act(item)
    pk = waiting().pk
    race.stop("reconciliation.services.approvals._the", at="after")
    race.actor("yes", lambda: services.approve_action(action_id=pk, by="paul", note="I agree").state)
    race.actor("no", lambda: services.reject_action(action_id=pk, by="vera", note="I do not").state)
    results = race.play(turns)
    item.refresh_from_db()
    told = [result for result in results.values() if isinstance(result, str)]
    assert told == [item.state]
    assert DiscrepancyAction.objects.get().outcome == {"resolved": "ok", "investigating": "rejected"}[item.state]


def test_control_of_that_race_without_the_guard_both_count(race, reconcile, monkeypatch, unguarded):
    """The approval's look at what waits is what holds: without it a refused action is done."""
    item = found_item(reconcile)
    act(item)
    record = waiting()
    unguarded.triggers("reconciliation_discrepancyaction")
    race.stop("reconciliation.services.approvals.carry_out", at="before")
    monkeypatch.setattr(
        "reconciliation.services.approvals._close",
        lambda record, why: DiscrepancyAction.objects.filter(pk=record.pk).update(outcome="rejected", result=why),
    )
    race.actor("yes", lambda: services.approve_action(action_id=record.pk, by="paul", note="I agree").state)
    race.actor("no", lambda: services.reject_action(action_id=record.pk, by="vera", note="I do not").state)
    results = race.play("yes no yes")
    assert results == {"yes": "resolved", "no": "investigating"}


# --- What PostgreSQL refuses --------------------------------------------------------------------------------


@pytest.mark.guard(15)
def test_postgresql_begins_nothing_above_the_limit_for_one_person(reconcile):
    act(found_item(reconcile))
    record = DiscrepancyAction.objects.filter(pk=waiting().pk)
    for change, name in (
        ({"outcome": "started"}, "discrepancy_action_above_the_limit_is_approved"),
        ({"outcome": "ok"}, "discrepancy_action_above_the_limit_is_approved"),
        ({"approved_by": "clara", "approved_at": DAY}, "discrepancy_action_approver_is_a_second_person"),
        ({"approved_by": "paul"}, "discrepancy_action_approval_is_dated"),
    ):
        with pytest.raises(IntegrityError) as refused, transaction.atomic():
            record.update(**change)
        assert violated(refused) == name
    values = {"discrepancy": the("ch_1"), "action": "accept", "note": "x", "by": "clara", "lease_until": DAY}
    with pytest.raises(IntegrityError) as refused, transaction.atomic():
        DiscrepancyAction.objects.create(key="past the service", amount_minor=1, approval_above_minor=0, **values)
    assert violated(refused) == "discrepancy_action_above_the_limit_is_approved"
    with pytest.raises(IntegrityError) as refused, transaction.atomic():
        DiscrepancyAction.objects.create(key="without an amount", approval_above_minor=0, **values)
    assert violated(refused) == "discrepancy_action_with_a_limit_has_an_amount"


def test_what_was_asked_for_and_by_whom_is_final(reconcile):
    act(found_item(reconcile))
    for change in ({"approval_above_minor": 10_000}, {"amount_minor": 1}, {"by": "somebody"}, {"note": "another"}):
        with pytest.raises(DatabaseError, match="Cannot update"), transaction.atomic():
            DiscrepancyAction.objects.update(**change)
    approve()
    with pytest.raises(DatabaseError, match="Cannot update"), transaction.atomic():
        DiscrepancyAction.objects.update(approved_by="vera")
