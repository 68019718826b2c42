"""Why two records are taken for one: by ids, else where only one thing fits; else a person chooses. Answers written by hand."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction

from foundation.database import database_now
from foundation.errors import InvalidInput
from payments.models import JournalEntry, Payment
from reconciliation import matching, offers, services
from reconciliation.errors import NoteMissing, RowLinked, ToleranceEnded, ToleranceSet
from reconciliation.models import Discrepancy, Link, Match, ProviderTransaction, Tolerance
from reconciliation.services import repairs
from reconciliation.types import Action, ActionInput, Kind, KindCounts
from tests.factories import make_merchant
from tests.reconciliation.ledgers import DAY, NOON, both, found, our_refund, ours, post_fee, the, theirs
from tests.reconciliation.test_statement_files import OURS, take_in
from tests.reconciliation.test_statements import capture, proofs, provider_holds, sold, whole_day

__all__ = ["whole_day"]

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)
DAYS = timedelta(days=1)


def matched() -> dict[str, tuple[str, UUID]]:
    return {row.object: (row.rule, row.ours_id) for row in Match.objects.all()}


def named(payment: Payment, source: str, amount: int = 1500, **fields: Any) -> str:
    """A charge of another id whose metadata name our payment."""
    return theirs(source, amount, metadata={"payment": payment.number, "order": payment.reference}, **fields)


def nameless(amount: int = 1500, **fields: Any) -> str:
    """A row that names neither object nor order: it stands under its own id."""
    row = f"row-{ProviderRow.next()}"
    return theirs(row, amount, id=row, payment_intent="", charge="", source_status="", **fields)


class ProviderRow:
    last = 0

    @classmethod
    def next(cls) -> int:
        cls.last += 1
        return cls.last


def candidates(source: str) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    return [(one.source, one.agrees, one.differs) for one in offers.candidates_of(the(source))]


# --- Each match says why ----------------------------------------------------------------------------


def test_each_match_says_why_and_with_what(reconcile):
    sale = both("ch_1")
    refund = our_refund(sale, "re_1", 500)
    theirs("re_1", -500)
    dead = ours("ch_2", status="failed")
    theirs("ch_2", 1500)
    theirs("ch_2", -1500, reporting_category="charge_failure", source_status="failed")
    ours("ch_3", 100)
    theirs("ch_3", 101)
    run = reconcile()
    assert matched() == {
        "charge:ch_1": ("id", sale.pk),
        "refund:re_1": ("id", refund.pk),
        "charge:ch_2": ("intent", dead.pk),
    }
    assert found() == {"ch_3": Kind.AMOUNT_MISMATCH}  # what differs is no match
    one = Match.objects.get(pk="charge:ch_1")
    assert (one.number, one.theirs_minor, one.ours_minor, one.difference_minor) == (sale.number, 1500, 1500, 0)
    assert (one.theirs_on, one.ours_on, one.run_id) == (DAY.date(), DAY.date(), run.run_id)


def test_a_run_that_is_repeated_writes_no_match_again_and_what_differs_now_is_none_any_more(reconcile):
    both("ch_1")
    both("ch_2")
    reconcile()

    def versions() -> dict[str, str]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT object, xmin::text || ctid::text FROM reconciliation_match")
            return dict(cursor.fetchall())

    before = versions()
    reconcile()
    assert versions() == before
    theirs("ch_2", 10)
    reconcile()
    assert versions() == {"charge:ch_1": before["charge:ch_1"]}


# --- By metadata ------------------------------------------------------------------------------------


def test_what_metadata_amount_and_date_agree_on_is_matched_where_nothing_else_fits(reconcile):
    payment = ours("ch_1")
    row = named(payment, "ch_9", at=NOON + 2 * HOUR)
    report = reconcile()
    assert found() == {}
    assert matched() == {"charge:ch_9": ("metadata", payment.pk)}
    assert Match.objects.get().ours_source == "ch_1"
    assert (report.matched, report.residual) == (1, {"usd": 0})
    fee = JournalEntry.objects.get(key=f"fee:{row}")  # nobody knew before whose it was
    assert fee.subject == payment.number
    assert reconcile().kinds == {}
    assert JournalEntry.objects.filter(kind="fee").count() == 1


def test_an_order_in_the_metadata_is_enough_if_no_payment_of_another_is_named(reconcile):
    one, two = ours("ch_1"), ours("ch_2", 700)
    theirs("ch_8", metadata={"order": one.reference})
    theirs("ch_9", 700, metadata={"order": two.reference, "payment": one.number})
    reconcile()
    assert matched() == {"charge:ch_8": ("metadata", one.pk)}
    assert found() == {"ch_2": Kind.MISSING_IN_STRIPE, "ch_9": Kind.MISSING_IN_OUR_SYSTEM}
    assert candidates("ch_9") == [("ch_2", ("order", "amount", "currency", "date"), ("payment", "intent", "id"))]


def test_what_fits_twice_is_proposed_and_never_chosen(reconcile):
    payment = ours("ch_1")
    for source, at in (("ch_8", NOON + HOUR), ("ch_9", NOON + 2 * HOUR)):
        theirs(source, at=at, metadata={"order": payment.reference})
    reconcile()
    assert matched() == {}
    assert found() == {
        "ch_1": Kind.MISSING_IN_STRIPE,
        "ch_8": Kind.MISSING_IN_OUR_SYSTEM,
        "ch_9": Kind.MISSING_IN_OUR_SYSTEM,
    }
    fits = (("order", "amount", "currency", "date"), ("intent", "id"))
    assert candidates("ch_1") == [("ch_8", *fits), ("ch_9", *fits)]  # the nearer one first, then the runner-up
    assert candidates("ch_8") == candidates("ch_9") == [("ch_1", *fits)]
    best, runner_up = offers.candidates_of(the("ch_1"))
    assert (best.side, best.source, best.amount_minor, best.currency) == ("theirs", "ch_8", 1500, "usd")
    assert (best.at, runner_up.source) == (NOON + HOUR, "ch_9")
    assert offers.candidates_of(the("ch_8"))[0].number == payment.number


@pytest.mark.parametrize(
    "other",
    [{"amount": 1501}, {"at": NOON + DAYS + HOUR}, {"currency": "eur"}],
    ids=["another amount", "too far apart", "another currency"],
)
def test_metadata_alone_match_nothing(reconcile, other):
    payment = ours("ch_1")
    named(payment, "ch_9", **other)
    reconcile(DAY)
    reconcile(DAY + DAYS)
    assert matched() == {}
    (only,) = candidates("ch_9")
    assert len(only[2]) == 3  # intent, id, and what differs here


def test_a_refund_is_matched_where_its_metadata_name_the_payment(reconcile):
    payment = both("ch_1", 9000)
    one = our_refund(payment, "re_1", 400)
    about: dict[str, Any] = {"charge": "ch_1", "payment_intent": "pi_1"}
    theirs("re_9", -400, metadata={"payment": payment.number}, **about)
    our_refund(payment, "re_3", 700)
    theirs("re_8", -700, **about)  # made in the dashboard: another refund of that payment, it may be
    reconcile()
    assert found() == {"re_3": Kind.MISSING_IN_STRIPE_REFUND, "re_8": Kind.MISSING_IN_OUR_SYSTEM_REFUND}
    assert candidates("re_8") == [("re_3", ("order", "intent", "amount", "currency", "date"), ("id",))]
    both_of_them = found().keys()
    assert matched()["refund:re_9"] == ("metadata", one.pk)
    our_refund(payment, "re_2", 400)
    reconcile()
    assert matched().keys() == {"charge:ch_1"}  # now two of ours fit
    assert [source for source, *_ in candidates("re_9")] == ["re_1", "re_2", "re_3"]
    assert found().keys() == both_of_them | {"re_1", "re_2", "re_9"}


def test_a_fee_that_we_posted_of_a_row_that_is_not_there_is_for_a_person(reconcile):
    payment = ours("ch_1")
    post_fee("txn_gone", 74, payment)
    named(payment, "ch_9")
    reconcile()
    assert matched() == {}
    assert candidates("ch_9")[0][2] == ("intent", "id", "fee")


# --- By amount and date -----------------------------------------------------------------------------


def test_a_row_that_names_nothing_is_matched_by_amount_and_date_where_both_are_alone(reconcile):
    payment = ours("ch_1")
    row = nameless(at=NOON + HOUR)
    other = ours("ch_2", 1500, currency="eur")
    reconcile()
    assert matched() == {f"charge:{row}": ("amount_and_date", payment.pk)}
    assert found() == {"ch_2": Kind.MISSING_IN_STRIPE}
    assert other.pk


def test_equal_amounts_of_different_ids_are_never_one_movement(reconcile):
    """Two breaks of 15.00 are two breaks: together they would hide that one customer paid and another did not."""
    ours("ch_1")
    theirs("ch_9", at=NOON + HOUR)
    reconcile()
    assert matched() == {}
    assert found() == {"ch_1": Kind.MISSING_IN_STRIPE, "ch_9": Kind.MISSING_IN_OUR_SYSTEM}
    assert candidates("ch_9") == [("ch_1", ("amount", "currency", "date"), ("intent", "id"))]


@pytest.mark.parametrize("rival", ["ours", "theirs"])
def test_a_rival_on_either_side_makes_it_a_proposal(reconcile, rival):
    ours("ch_1", at=NOON)
    row = nameless(at=NOON + HOUR)
    if rival == "ours":
        ours("ch_2", at=NOON + 3 * HOUR)
    else:
        theirs("ch_9", at=NOON + 3 * HOUR)
    reconcile()
    assert matched() == {}
    expected = ["ch_1", "ch_2"] if rival == "ours" else ["ch_1"]
    assert [source for source, *_ in candidates(row)] == expected


def test_of_many_the_nearest_before_and_after_are_proposed(reconcile):
    for hours in range(5):
        ours(f"ch_{hours}", at=NOON + hours * HOUR)
    row = nameless(at=NOON + 2.4 * HOUR)
    reconcile()
    assert [source for source, *_ in candidates(row)][:2] == ["ch_2", "ch_3"]


def test_rows_of_a_statement_file_that_name_no_object_are_each_one_of_its_own(reconcile, transactional_db):
    payment = ours("ch_1", 1500)
    report = take_in(
        "a-1,2026-01-10T12:05:00Z,usd,1500,74,1426,charge,",
        "a-2,2026-01-10T12:06:00Z,usd,900,60,840,charge,",
        header=OURS,
    )
    assert report.problems == ()
    assert take_in("a-1,2026-01-10T12:05:00Z,usd,1500,74,1426,charge,", header=OURS).known == 1
    reconcile()
    assert matched() == {"charge:a-1": ("amount_and_date", payment.pk)}
    assert found() == {"a-2": Kind.MISSING_IN_OUR_SYSTEM}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["forwards", "backwards"])
def test_days_in_any_order_leave_the_same_when_something_else_fits_as_well(reconcile, order):
    late = DAY + DAYS - HOUR
    ours("ch_1", at=late)
    first = nameless(at=late - HOUR)
    second = nameless(at=late + 2 * HOUR)  # of the next day
    for offset in order:
        reconcile(DAY + offset * DAYS, now=DAY + 9 * DAYS)
    assert matched() == {}
    assert found() == {
        "ch_1": Kind.MISSING_IN_STRIPE,
        first: Kind.MISSING_IN_OUR_SYSTEM,
        second: Kind.MISSING_IN_OUR_SYSTEM,
    }
    assert [source for source, *_ in candidates("ch_1")] == [first, second]


def test_a_match_across_midnight_is_explained_at_the_cut(whole_day):
    """Ours at 23:30, theirs half an hour after midnight: at the cut 15.00 stand in our books alone."""
    sold("ch_5")
    payment = capture(ours("ch_1", at=DAY + DAYS - HOUR / 2))
    row = named(payment, "ch_9", at=DAY + DAYS + HOUR / 2)
    whole_day(DAY, now=DAY + 3 * DAYS)
    whole_day(DAY + DAYS, now=DAY + 3 * DAYS)
    assert matched()["charge:ch_9"] == ("metadata", payment.pk)
    whole_day(DAY, now=DAY + 3 * DAYS)
    assert (proofs(DAY)["clearing"].explained_minor, proofs(DAY)["clearing"].residual_minor) == (-1500, 0)
    assert proofs(DAY + DAYS)["clearing"].residual_minor == 0
    assert JournalEntry.objects.filter(key=f"fee:{row}").exists()


def test_a_look_at_a_few_leaves_together_what_a_run_has_put_together(reconcile, monkeypatch):
    """Its fee alone is off: an action on that does not make two breaks of one match."""
    payment = capture(ours("ch_8"))
    refund = our_refund(payment, "re_8", 500)
    row = named(payment, "ch_9", payment_intent="pi_9")
    theirs("re_9", -500, metadata={"payment": payment.number}, payment_intent=payment.provider_reference)
    reconcile()
    before = matched()
    assert before == {"charge:ch_9": ("metadata", payment.pk), "refund:re_9": ("metadata", refund.pk)}
    ProviderTransaction.objects.filter(pk=row).update(fee_minor=100, net_minor=1400)
    reconcile()
    assert found() == {"ch_9": Kind.FEE_VARIANCE}
    monkeypatch.setattr(repairs, "import_sources", lambda sources: 1)
    result = services.perform(discrepancy_id=the("ch_9").pk, action=Action.REQUERY, by="clara", note="look")
    assert result.state == "open"
    assert (found(), matched()) == ({"ch_9": Kind.FEE_VARIANCE}, before)
    assert looked_at(("charge", "ch_8")) == {"ch_9": Kind.FEE_VARIANCE}  # from either half
    assert looked_at(("refund", "re_8")) == looked_at(("refund", "re_9")) == {}
    result = services.perform(discrepancy_id=the("ch_9").pk, action=Action.POST_CORRECTION, by="clara", note="its row")
    assert (result.closed_as, found(), matched()) == ("fixed", {}, before)
    reconcile()
    assert (found(), matched()) == ({}, before)


TOOK_APART: dict[str, dict[str, Any]] = {
    "amount": {"amount_minor": 1501, "net_minor": 1427},
    "currency": {"currency": "eur"},
    "day": {"created_at": NOON + DAYS},
    "status": {"source_status": "failed"},
    "gone": {"withdrawn_at": NOON},
}


@pytest.mark.parametrize("what", TOOK_APART)
def test_what_a_run_has_put_together_stays_only_while_both_halves_are_what_they_were(reconcile, what):
    payment = ours("ch_8")
    row = named(payment, "ch_9", payment_intent="pi_9")
    reconcile()
    assert looked_at(("charge", "ch_9")) == {}
    ProviderTransaction.objects.filter(pk=row).update(**TOOK_APART[what])
    assert looked_at(("charge", "ch_9"))["ch_8"] == Kind.MISSING_IN_STRIPE


def test_a_half_that_the_other_side_knows_by_its_id_after_all_is_taken_apart(reconcile):
    payment = ours("ch_8")
    named(payment, "ch_9", payment_intent="pi_9")
    reconcile()
    theirs("ch_8", 1500)
    assert looked_at(("charge", "ch_9")) == {"ch_9": Kind.MISSING_IN_OUR_SYSTEM}


def looked_at(*objects: tuple[str, str]) -> dict[str, str]:
    """source → kind of what a look at a few finds."""
    with transaction.atomic(), connection.cursor() as cursor:
        matching.match_objects(objects, now=database_now())
        cursor.execute("SELECT source, kind FROM recon_found")
        return dict(cursor.fetchall())


# --- A person chooses -------------------------------------------------------------------------------


@pytest.fixture
def proposed(reconcile):
    """15.00 of ours, and two rows that may be it. The first one's number, the rows."""
    payment = ours("ch_1")
    rows = [nameless(at=NOON + hours * HOUR) for hours in (1, 2)]
    reconcile()
    assert found().keys() == {"ch_1", *rows}
    return payment, *rows


def test_what_a_person_linked_is_one_for_every_later_run_until_it_is_ended(proposed, reconcile):
    payment, one, other = proposed
    assert candidates(other) == [("ch_1", ("amount", "currency", "date"), ())]
    assert services.link_row(item=the(other), number=payment.number, by="clara", why="the slip says so")
    report = reconcile()
    assert report.kinds[Kind.MISSING_IN_OUR_SYSTEM] == KindCounts(persisting=1, resolved=1)
    assert report.kinds[Kind.MISSING_IN_STRIPE] == KindCounts(resolved=1)
    assert matched() == {f"charge:{other}": ("person", payment.pk)}
    assert JournalEntry.objects.get(kind="fee").subject == payment.number
    assert found().keys() == {one}
    assert candidates(one) == []
    services.end_link(object_kind="charge", source=other, by="dora", why="two sales")
    reconcile()
    assert found().keys() == {"ch_1", one, other}
    assert the(other).state == "open"
    link = Link.objects.get()
    assert (link.ours_source, link.by, link.ended_by) == ("ch_1", "clara", "dora")


def test_a_clerk_links_a_row_that_names_no_object_by_the_same_action(reconcile, transactional_db):
    payment = ours("ch_1")
    row, other = (nameless(at=NOON + hours * HOUR) for hours in (1, 2))
    reconcile()
    given = ActionInput(number=payment.number)
    result = services.perform(discrepancy_id=the(row).pk, action=Action.LINK, by="clara", note="the slip", given=given)
    assert (result.state, result.closed_as) == ("resolved", "fixed")
    assert found().keys() == {other}
    assert matched() == {f"charge:{row}": ("person", payment.pk)}
    assert reconcile().kinds[Kind.MISSING_IN_OUR_SYSTEM] == KindCounts(persisting=1)


def test_each_half_of_a_link_is_found_by_the_other_on_another_day(proposed, reconcile):
    payment, one, other = proposed
    services.link_row(item=the(other), number=payment.number, by="clara", why="the slip says so")
    with transaction.atomic():
        matching.match_objects([("charge", "ch_1")], now=DAY + 3 * DAYS)
        assert not matching.is_found("missing_in_stripe:ch_1")
        matching.match_objects([("charge", other)], now=DAY + 3 * DAYS)
        assert not matching.is_found(f"missing_in_our_system:{other}")
        assert not matching.is_found("missing_in_stripe:ch_1")
        matching.match_objects([("charge", one)], now=DAY + 3 * DAYS)
        assert matching.is_found(f"missing_in_our_system:{one}")


def test_nothing_is_linked_twice_and_an_id_goes_before_a_link(proposed, reconcile):
    payment, one, other = proposed
    for _ in range(2):  # pressed twice
        services.link_row(item=the(other), number=payment.number, by="a", why="seen")
    with pytest.raises(RowLinked):
        services.link_row(item=the(one), number=payment.number, by="b", why="seen")
    with pytest.raises(NoteMissing):
        services.link_row(item=the(one), number=payment.number, by="b", why=" ")
    with pytest.raises(InvalidInput):
        services.link_row(item=the(one), number=ours("ch_2", status="failed").number, by="b", why="seen")
    assert Link.objects.count() == 1
    with pytest.raises(DatabaseError), transaction.atomic():
        Link.objects.update(source="ch_8")
    with pytest.raises(DatabaseError), transaction.atomic():
        Link.objects.all().delete()
    theirs("ch_1")  # Stripe holds what our books name after all
    reconcile()
    assert matched() == {"charge:ch_1": ("id", payment.pk)}
    assert found().keys() == {one, other}


def test_where_the_amounts_differ_a_link_says_so(reconcile):
    payment = ours("ch_1")
    row = nameless(1400)
    reconcile()
    services.link_row(item=the(row), number=payment.number, by="clara", why="seen")
    reconcile()
    assert found() == {row: Kind.AMOUNT_MISMATCH}
    item = Discrepancy.objects.get(kind=Kind.AMOUNT_MISMATCH)
    assert (item.evidence["matched_by"], item.difference_minor) == ("person", -100)


# --- Tolerances -------------------------------------------------------------------------------------


def tolerate(amount: int, *, currency: str = "usd", merchant=None) -> UUID:
    return services.set_tolerance(
        merchant_id=merchant or make_merchant().id, currency=currency, amount_minor=amount, by="dora", note="roundings"
    )


def test_every_cent_is_told_unless_a_tolerance_lets_it_pass_and_then_it_stays_visible(reconcile):
    merchant, other = make_merchant().id, make_merchant().id
    payment = ours("ch_1", 1500, merchant_id=merchant)
    theirs("ch_1", 1498)
    ours("ch_2", 1500, merchant_id=merchant)
    theirs("ch_2", 1503)
    ours("ch_3", 1500, merchant_id=merchant, currency="eur")
    theirs("ch_3", 1501, currency="eur")
    ours("ch_4", 1500, merchant_id=other)
    theirs("ch_4", 1501)
    our_refund(payment, "re_1", 400)
    theirs("re_1", -399)
    all_of_them = {"ch_1", "ch_2", "ch_3", "ch_4", "re_1"}
    reconcile()
    assert found().keys() == all_of_them
    set_id = tolerate(2, merchant=merchant)
    report = reconcile()
    assert found().keys() == all_of_them - {"ch_1", "re_1"}
    assert (report.kinds[Kind.AMOUNT_MISMATCH].resolved, report.kinds[Kind.AMOUNT_MISMATCH_REFUND].resolved) == (1, 1)
    charge, refund = Match.objects.filter(tolerance_minor__isnull=False).order_by("pk")
    assert (charge.rule, charge.tolerance_minor, charge.difference_minor, charge.ours_minor) == ("id", 2, -2, 1500)
    assert (refund.theirs_minor, refund.difference_minor, refund.ours_minor) == (399, 1, 400)
    services.end_tolerance(tolerance_id=set_id, by="dora", note="no more")
    reconcile()
    assert found().keys() == all_of_them
    assert the("ch_1").state == "open"


def test_what_a_tolerance_lets_pass_is_explained_in_the_statement(whole_day):
    merchant = make_merchant().id
    payment = capture(ours("ch_1", 1500, merchant_id=merchant))
    row = theirs("ch_1", 1498, fee_minor=74, net_minor=1424)
    tolerate(2, merchant=merchant)
    provider_holds(1424, row)
    report = whole_day()
    assert report.kinds == {}
    assert (report.residual, proofs()["clearing"].explained_minor) == ({"usd": 0}, -2)
    assert report.statement["usd"].is_proved
    assert payment.pk


def test_a_tolerance_is_one_a_merchant_and_currency_small_and_never_changed():
    merchant = make_merchant().id
    first = tolerate(5, merchant=merchant)
    with pytest.raises(ToleranceSet):
        tolerate(6, merchant=merchant)
    for wrong in (0, 1001, -1):
        with pytest.raises(InvalidInput):
            tolerate(wrong, merchant=merchant, currency="eur")
    row = {"merchant_id": merchant, "currency": "eur", "by": "x", "note": "x"}
    for wrong in (0, 1001):
        with pytest.raises(IntegrityError, match="tolerance_between_1_and_1000_minor_units"), transaction.atomic():
            Tolerance.objects.create(**row, amount_minor=wrong)
    with pytest.raises(DatabaseError), transaction.atomic():
        Tolerance.objects.filter(pk=first).update(amount_minor=9)
    services.end_tolerance(tolerance_id=first, by="dora", note="no more")
    with pytest.raises(ToleranceEnded):
        services.end_tolerance(tolerance_id=first, by="dora", note="again")
    with pytest.raises(DatabaseError), transaction.atomic():
        Tolerance.objects.filter(pk=first).update(ended_at=database_now())
    with pytest.raises(DatabaseError), transaction.atomic():
        Tolerance.objects.filter(pk=first).delete()
    assert tolerate(6, merchant=merchant) != first


def test_a_match_says_no_more_than_its_tolerance(reconcile):
    both("ch_1")
    reconcile()
    for values in ({"difference_minor": 1}, {"difference_minor": -3, "tolerance_minor": 2}):
        with pytest.raises(IntegrityError, match="match_difference_within_its_tolerance"), transaction.atomic():
            Match.objects.update(**values)
    with pytest.raises(IntegrityError, match="match_says_why"), transaction.atomic():
        Match.objects.update(rule="luck")
