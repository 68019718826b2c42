"""One of ours is matched with one of the provider's: whatever comes later, on whatever day, and in whatever order days are run."""

import importlib
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from foundation.database import database_now
from foundation.ids import uuid7
from payments.models import Payment
from reconciliation import matching, services
from reconciliation.models import ChangedDay, Match
from reconciliation.services import findings, matches, sharing
from reconciliation.types import Action, ActionInput, Kind
from tests.reconciliation.ledgers import DAY, NOON, both, found, our_refund, ours, the, theirs
from tests.reconciliation.test_rules import candidates, matched, named, nameless
from tests.reconciliation.test_sharing import helped
from tests.reconciliation.test_statements import capture, proofs, was_read

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)
DAYS = timedelta(days=1)
RULES = ("metadata", "amount_and_date")


def beside(payment: Payment, by: str, amount: int = 1500, **fields: Any) -> str:
    """A row that a fuzzy rule takes for a payment; what it stands under."""
    if by == "metadata":
        named(payment, "ch_9", amount, charge="ch_9", payment_intent="pi_9", **fields)
        return "ch_9"
    return nameless(amount, **fields)


def accept(source: str) -> None:
    services.perform(discrepancy_id=the(source).pk, action=Action.ACCEPT, by="clara", note="it is lost")


def link(source: str, payment: Payment) -> None:
    given = ActionInput(number=payment.number)
    services.perform(discrepancy_id=the(source).pk, action=Action.LINK, by="clara", note="the slip", given=given)


# --- What ours name comes after all -----------------------------------------------------------------


@pytest.mark.parametrize("by", RULES)
def test_a_payment_whose_own_charge_comes_days_later_was_paid_twice_and_that_is_told(reconcile, by):
    payment = ours("ch_1")
    row = beside(payment, by, at=NOON + HOUR)
    reconcile()
    assert matched() == {f"charge:{row}": (by, payment.pk)}
    theirs("ch_1", at=NOON + 3 * DAYS)
    report = reconcile(DAY + 3 * DAYS)
    assert matched() == {"charge:ch_1": ("id", payment.pk)}
    assert found() == {row: Kind.MISSING_IN_OUR_SYSTEM}
    assert report.residual == {"usd": 0}


@pytest.mark.parametrize("by", RULES)
@pytest.mark.parametrize("order", [(0, 3), (3, 0), (0, 3, 0), (3, 0, 3)])
def test_days_in_any_order_leave_the_same(reconcile, by, order):
    payment = ours("ch_1")
    row = beside(payment, by, at=NOON + HOUR)
    theirs("ch_1", at=NOON + 3 * DAYS)
    for days in order:
        reconcile(DAY + days * DAYS)
    assert matched() == {"charge:ch_1": ("id", payment.pk)}
    assert found() == {row: Kind.MISSING_IN_OUR_SYSTEM}


def test_a_second_charge_that_names_the_same_payment_is_a_duplicate_then(reconcile):
    payment = ours("ch_1")
    named(payment, "ch_9", at=NOON + HOUR)
    reconcile()
    assert found() == {}
    named(payment, "ch_1", at=NOON + 3 * DAYS)
    reconcile(DAY + 3 * DAYS)
    assert found() == {"ch_9": Kind.DUPLICATE_CHARGE}


def test_its_own_charge_may_differ(reconcile):
    payment = ours("ch_1")
    row = beside(payment, "amount_and_date", at=NOON + HOUR)
    reconcile()
    theirs("ch_1", 1400, at=NOON + 3 * DAYS)
    reconcile(DAY + 3 * DAYS)
    assert matched() == {}
    assert found() == {row: Kind.MISSING_IN_OUR_SYSTEM, "ch_1": Kind.AMOUNT_MISMATCH}


def test_a_refund_whose_own_row_comes_days_later(reconcile):
    refund = our_refund(both("ch_1"), "re_1", 500)
    row = nameless(-500, type="refund", reporting_category="refund", at=NOON + HOUR)
    reconcile()
    assert matched()[f"refund:{row}"] == ("amount_and_date", refund.pk)
    theirs("re_1", -500, at=NOON + 3 * DAYS)
    reconcile(DAY + 3 * DAYS)
    assert matched().keys() == {"charge:ch_1", "refund:re_1"}
    assert found() == {row: Kind.MISSING_IN_OUR_SYSTEM_REFUND}


def test_what_a_person_linked_is_taken_apart_by_it_as_well(reconcile):
    payment = ours("ch_1")
    row = nameless(at=NOON + 3 * DAYS)
    reconcile(DAY + 3 * DAYS)
    link(row, payment)
    assert matched() == {f"charge:{row}": ("person", payment.pk)}
    theirs("ch_1", at=NOON + 8 * DAYS)
    reconcile(DAY + 8 * DAYS)
    assert matched() == {"charge:ch_1": ("id", payment.pk)}
    assert found() == {row: Kind.MISSING_IN_OUR_SYSTEM}


def test_it_is_told_in_the_statement_and_nothing_is_left_to_be_written_off(reconcile):
    was_read(DAY, DAY + 4 * DAYS)
    payment = capture(ours("ch_1"))
    row = beside(payment, "metadata", at=NOON + HOUR)
    for number in range(3):
        reconcile(DAY + number * DAYS)
    theirs("ch_1", at=NOON + 3 * DAYS)
    report = reconcile(DAY + 3 * DAYS)
    assert found() == {row: Kind.MISSING_IN_OUR_SYSTEM}
    assert report.residual == {"usd": 0}
    assert all(not proof.residual_minor for proof in proofs().values())


@pytest.mark.usefixtures("valkey")
@pytest.mark.parametrize("helpers", [False, True])
def test_a_large_day_is_told_of_it_whoever_looks_at_the_part(reconcile, settings, monkeypatch, helpers):
    payment = ours("ch_1")
    row = beside(payment, "metadata", at=NOON + HOUR)
    reconcile()
    theirs("ch_1", at=NOON + 3 * DAYS)
    for number in range(12):
        both(f"ch_same_{number}", at=NOON + 3 * DAYS)
    asked: list[tuple[str, str, str, list[str]]] = []
    settings.RECONCILE_PART_ROWS = 2
    monkeypatch.setattr("config.celery.app.send_task", lambda name, args, **_: asked.append(tuple(args)))
    ask = sharing._ask_for_help

    def ask_and_let_them(*arguments: Any) -> None:
        ask(*arguments)
        if helpers:
            assert helped(asked) == len(asked[0][3]) + 1

    monkeypatch.setattr(sharing, "_ask_for_help", ask_and_let_them)
    reconcile(DAY + 3 * DAYS)
    assert asked
    assert found() == {row: Kind.MISSING_IN_OUR_SYSTEM}
    assert matched()["charge:ch_1"] == ("id", payment.pk)
    assert f"charge:{row}" not in matched()


def test_a_second_look_at_one_object_looks_at_what_it_was_matched_with(reconcile):
    payment = ours("ch_1")
    row = beside(payment, "metadata", at=NOON + HOUR)
    reconcile()
    theirs("ch_1", at=NOON + 3 * DAYS)
    with transaction.atomic():
        now = database_now()
        matching.match_objects([("charge", "ch_1")], now=now)
        findings.look_again(None, by="clara", now=now)
        matches.store(None, now=now)
    assert matched() == {"charge:ch_1": ("id", payment.pk)}
    assert found() == {row: Kind.MISSING_IN_OUR_SYSTEM}


def test_what_a_person_links_with_a_payment_that_a_rule_has_given_away_takes_it_over(reconcile):
    payment = ours("ch_1")
    row = nameless(at=NOON + HOUR)
    reconcile()
    other = nameless(at=NOON + 3 * DAYS)
    reconcile(DAY + 3 * DAYS)
    assert found() == {other: Kind.MISSING_IN_OUR_SYSTEM}
    link(other, payment)
    assert matched() == {f"charge:{other}": ("person", payment.pk)}
    assert found() == {row: Kind.MISSING_IN_OUR_SYSTEM}


# --- Held by the database ---------------------------------------------------------------------------


def a_match(source: str, **fields: Any) -> Match:
    return Match(
        object=f"charge:{source}",
        currency="usd",
        theirs_minor=1500,
        theirs_on=DAY.date(),
        ours_on=DAY.date(),
        **{"rule": "id", **fields},
    )


def test_two_matches_of_one_of_ours_cannot_be_stored(db):
    payment = uuid7()
    a_match("ch_1", ours_id=payment).save()
    with pytest.raises(IntegrityError, match="match_one_of_ours"), transaction.atomic():
        a_match("ch_9", ours_id=payment, rule="metadata", ours_source="ch_1").save()
    a_match("ch_8", ours_id=payment, rule="intent").save()  # an attempt that came to nothing


def test_two_that_change_places_are_stored(reconcile):
    one, two = ours("ch_1"), ours("ch_2")
    rows = [named(payment, source) for payment, source in ((one, "ch_8"), (two, "ch_9"))]
    reconcile()
    assert matched() == {"charge:ch_8": ("metadata", one.pk), "charge:ch_9": ("metadata", two.pk)}
    for payment, source, row in ((two, "ch_8", rows[0]), (one, "ch_9", rows[1])):
        named(payment, source, id=row)
    reconcile()
    assert matched() == {"charge:ch_8": ("metadata", two.pk), "charge:ch_9": ("metadata", one.pk)}


def test_each_attempt_that_came_to_nothing_stands_beside_its_payment(reconcile):
    payment = ours("ch_1", status="failed")
    for source in ("ch_1", "ch_2"):
        theirs(source, payment_intent="pi_1")
        theirs(source, -1500, reporting_category="charge_failure", source_status="failed", payment_intent="pi_1")
    reconcile()
    assert matched() == {"charge:ch_1": ("intent", payment.pk), "charge:ch_2": ("intent", payment.pk)}


def test_a_payment_known_by_an_attempt_that_came_to_nothing_succeeds_with_another(reconcile):
    payment = ours("ch_1", status="failed", charge_reference="ch_1")
    theirs("ch_1")
    theirs("ch_1", -1500, reporting_category="charge_failure", source_status="failed")
    reconcile()
    assert matched() == {"charge:ch_1": ("id", payment.pk)}
    later = NOON + 3 * DAYS
    Payment.objects.filter(pk=payment.pk).update(
        status="succeeded", charge_reference="ch_2", captured_minor=1500, captured_at=later
    )
    theirs("ch_2", at=later, payment_intent="pi_1")
    reconcile(DAY + 3 * DAYS)
    assert matched() == {"charge:ch_2": ("id", payment.pk)}
    assert found() == {}


def test_the_migration_keeps_the_match_by_id_and_has_the_day_of_the_other_looked_at_again():
    migration = importlib.import_module("reconciliation.migrations.0020_match_one_of_ours")
    one, two = uuid7(), uuid7()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("DROP INDEX match_one_of_ours")
        a_match("ch_8", ours_id=one, rule="metadata", ours_source="ch_1").save()
        a_match("ch_1", ours_id=one).save()
        a_match("ch_2", ours_id=two, rule="intent").save()
        a_match("ch_3", ours_id=two, rule="intent").save()
        cursor.execute(migration.TWICE)
        assert matched().keys() == {"charge:ch_1", "charge:ch_2", "charge:ch_3"}
        assert ChangedDay.objects.get().day == DAY.date()
        cursor.execute(migration.INDEX.replace("CONCURRENTLY", ""))  # it can be built now
        transaction.set_rollback(True)


# --- What is accepted -------------------------------------------------------------------------------


def test_what_is_accepted_fits_as_well_whatever_day_is_run(reconcile):
    ours("ch_2")
    reconcile()
    accept("ch_2")
    ours("ch_1", at=NOON + DAYS - 2 * HOUR)
    row = nameless(at=NOON + DAYS - HOUR)
    seen = []
    for day in (DAY + DAYS, DAY, DAY + DAYS):
        reconcile(day)
        seen.append((matched(), found(), {source for source, _, _ in candidates(row)}))
    assert seen == [({}, {"ch_1": Kind.MISSING_IN_STRIPE, row: Kind.MISSING_IN_OUR_SYSTEM}, {"ch_1", "ch_2"})] * 3
    assert the("ch_2").closed_as == "accepted"


def test_what_is_accepted_fits_an_open_item_of_another_day_as_well(reconcile):
    ours("ch_2", at=NOON - DAYS)
    reconcile(DAY - DAYS)
    accept("ch_2")
    ours("ch_1", at=NOON - 2 * HOUR)
    row = nameless(at=NOON - HOUR)
    reconcile()
    assert found() == {"ch_1": Kind.MISSING_IN_STRIPE, row: Kind.MISSING_IN_OUR_SYSTEM}
    reconcile(DAY + 20 * DAYS)
    assert matched() == {}
    assert {source for source, _, _ in candidates(row)} == {"ch_1", "ch_2"}


@pytest.mark.parametrize("day", [DAY, DAY + DAYS])
def test_what_was_accepted_is_matched_where_nothing_else_fits_whatever_day_is_run(reconcile, day):
    payment = ours("ch_2")
    reconcile()
    accept("ch_2")
    row = nameless(at=NOON + DAYS - HOUR)
    reconcile(day)
    reconcile(DAY + DAYS)
    assert matched() == {f"charge:{row}": ("amount_and_date", payment.pk)}
    assert (found(), the("ch_2").closed_as) == ({}, "auto")


def test_what_is_accepted_may_itself_fit_something_else_that_is(reconcile):
    """A chain of four, each within a day of the next: the run of the last one sees that its neighbour has another one."""
    chain = [
        str(ours("ch_1", at=NOON - 20 * HOUR).charge_reference),
        nameless(at=NOON),
        str(ours("ch_2", at=NOON + 20 * HOUR).charge_reference),
    ]
    for days in (1, -1, 0):
        reconcile(DAY + days * DAYS)
    assert matched() == {}
    for source in chain:
        accept(source)
    row = nameless(at=NOON + 40 * HOUR)
    reconcile(DAY + 2 * DAYS)
    assert matched() == {}
    assert found() == {row: Kind.MISSING_IN_OUR_SYSTEM}
    assert {source for source, _, _ in candidates(row)} == {"ch_2"}
