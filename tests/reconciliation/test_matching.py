"""Matching, with rows and answers written by hand."""

from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from durability.models import Delivery, Message
from payments.models import JournalEntry, LateChange, Payment, Refund
from reconciliation import matching
from reconciliation.models import Discrepancy, ProviderTransaction
from reconciliation.types import Kind, KindCounts
from tests.reconciliation.ledgers import DAY, NOON, both, found, our_refund, ours, the, theirs

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)
NEXT_DAY = timedelta(days=1)


def test_gross_is_compared_with_gross_whatever_the_fee(reconcile):
    both("ch_1", 1500)
    report = reconcile()
    assert found() == {}
    assert (report.matched, report.ours_totals, report.theirs_totals) == (1, {"usd": 1500}, {"usd": 1500})


@pytest.mark.guard(14)
def test_the_four_kinds_and_their_figures(reconcile):
    both("ch_same", 1000)
    ours("ch_lost", 1100)
    theirs("ch_stray", 1200, metadata={"order": "ord_x", "instance": "everycent"})
    ours("ch_more", 1300)
    theirs("ch_more", 1350)
    ours("ch_late", 1400, status="cancelled")
    theirs("ch_late", 1400)
    report = reconcile()
    assert found() == {
        "ch_lost": Kind.MISSING_IN_STRIPE,
        "ch_stray": Kind.MISSING_IN_OUR_SYSTEM,
        "ch_more": Kind.AMOUNT_MISMATCH,
        "ch_late": Kind.STATUS_MISMATCH,
    }
    assert report.kinds == {kind: KindCounts(new=1) for kind in found().values()}
    assert (report.ours_count, report.ours_totals) == (3, {"usd": 1000 + 1100 + 1300})
    assert (report.theirs_count, report.theirs_totals) == (4, {"usd": 1000 + 1200 + 1350 + 1400})
    assert report.matched == 1
    assert report.residual == {"usd": 0}
    figures = {
        item.source: (item.ours_amount_minor, item.ours_status, item.theirs_amount_minor, item.theirs_status, item.difference_minor)
        for item in Discrepancy.objects.all()
    }  # fmt: skip
    assert figures == {
        "ch_lost": (1100, "succeeded", None, "", -1100),
        "ch_stray": (None, "", 1200, "succeeded", 1200),
        "ch_more": (1300, "succeeded", 1350, "succeeded", 50),
        "ch_late": (1400, "cancelled", 1400, "succeeded", 1400),
    }
    assert the("ch_stray").order_reference == "ord_x"
    assert the("ch_late").evidence["matched_by"] == "intent"
    assert sum(item.difference_minor or 0 for item in Discrepancy.objects.all()) == (
        report.theirs_totals["usd"] - report.ours_totals["usd"]
    )


def test_the_four_kinds_of_refunds_and_their_figures(reconcile):
    payment = both("ch_1", 9000)
    our_refund(payment, "re_same", 100)
    theirs("re_same", -100)
    our_refund(payment, "re_lost", 200)
    theirs("re_stray", -300, charge="ch_1", payment_intent="pi_1")
    our_refund(payment, "re_less", 400)
    theirs("re_less", -390)
    our_refund(payment, "re_back", 500)
    theirs("re_back", -500, at=NOON - HOUR)
    theirs("re_back", 500, reporting_category="refund_failure", source_status="failed")
    report = reconcile()
    assert found() == {
        "re_lost": Kind.MISSING_IN_STRIPE_REFUND,
        "re_stray": Kind.MISSING_IN_OUR_SYSTEM_REFUND,
        "re_less": Kind.AMOUNT_MISMATCH_REFUND,
        "re_back": Kind.STATUS_MISMATCH_REFUND,
    }
    # What the provider holds more than our books say.
    assert {item.source: item.difference_minor for item in Discrepancy.objects.all()} == {
        "re_lost": 200,
        "re_stray": -300,
        "re_less": 10,
        "re_back": 500,
    }
    assert report.theirs_totals == {"usd": 9000 - 100 - 300 - 390}
    assert report.ours_totals == {"usd": 9000 - 100 - 200 - 400 - 500}
    assert report.residual == {"usd": 0}


def test_a_counterpart_on_the_neighbouring_day_is_a_match_not_two_breaks(reconcile):
    last_second = DAY + NEXT_DAY - timedelta(seconds=1)
    ours("ch_1", at=last_second)
    theirs("ch_1", at=last_second + timedelta(seconds=2))
    first = reconcile(DAY)
    second = reconcile(DAY + NEXT_DAY)
    assert found() == {}
    assert (first.ours_count, first.theirs_count, first.matched, first.residual) == (1, 0, 0, {"usd": 0})
    assert (second.ours_count, second.theirs_count, second.matched, second.residual) == (0, 1, 1, {"usd": 0})


def test_a_day_is_half_open(reconcile):
    both("ch_first", 1, at=DAY)
    both("ch_last", 10, at=DAY + NEXT_DAY - timedelta(microseconds=1))
    both("ch_next", 100, at=DAY + NEXT_DAY)
    ours("ch_lost", at=DAY + NEXT_DAY)
    assert reconcile(DAY).theirs_totals == {"usd": 11}
    assert found() == {}
    assert reconcile(DAY + NEXT_DAY).theirs_totals == {"usd": 100}
    assert found() == {"ch_lost": Kind.MISSING_IN_STRIPE}


def test_a_currency_without_decimals_is_counted_in_its_own_units(reconcile):
    both("ch_1", 500, currency="jpy")
    ours("ch_2", 500, currency="jpy")
    theirs("ch_2", 501, currency="jpy")
    both("ch_3", 500)
    report = reconcile()
    assert found() == {"ch_2": Kind.AMOUNT_MISMATCH}
    assert the("ch_2").difference_minor == 1
    assert (report.ours_totals, report.theirs_totals) == ({"jpy": 1000, "usd": 500}, {"jpy": 1001, "usd": 500})
    assert report.residual == {"jpy": 0, "usd": 0}


def test_another_currency_has_no_difference_to_be_told(reconcile):
    ours("ch_1", 500)
    theirs("ch_1", 500, currency="eur")
    report = reconcile()
    assert found() == {"ch_1": Kind.CURRENCY_MISMATCH}
    assert the("ch_1").difference_minor is None
    assert report.residual == {"eur": 0, "usd": 0}


def test_a_partial_capture_is_two_rows_of_one_charge(reconcile):
    ours("ch_1", 700)
    theirs("ch_1", 1000)
    theirs("ch_1", -300, type="refund", reporting_category="partial_capture_reversal")
    report = reconcile()
    assert found() == {}
    assert (report.theirs_count, report.matched, report.theirs_totals) == (2, 1, {"usd": 700})


def test_a_refund_that_fails_weeks_later_is_a_difference_of_its_day(reconcile):
    payment = both("ch_1", 900)
    refund = our_refund(payment, "re_1", 500)
    theirs("re_1", -500)
    assert reconcile().kinds == {}
    late = DAY + 20 * NEXT_DAY
    theirs("re_1", 500, at=late + HOUR, reporting_category="refund_failure", source_status="failed")
    assert reconcile(late).kinds == {Kind.STATUS_MISMATCH_REFUND: KindCounts(new=1)}
    assert the("re_1").business_date == late.date()  # the day that made it differ
    assert reconcile().kinds == {}  # the day of the refund itself has no discrepancy of its own
    Refund.objects.filter(pk=refund.pk).update(status="failed")
    (again,) = reconcile(late).run_again  # the day of the refund, on which our books have changed
    assert (again.date, again.kinds[Kind.STATUS_MISMATCH_REFUND].resolved) == (DAY.date(), 1)
    assert found() == {}


def test_a_refund_that_both_sides_hold_for_pending_is_no_difference(reconcile):
    payment = both("ch_1", 900)
    our_refund(payment, "re_1", 500, status="pending")
    theirs("re_1", -500, source_status="pending")
    report = reconcile()
    assert found() == {}
    assert report.residual == {"usd": 0}


def test_a_payment_that_both_sides_hold_for_dead_is_no_difference(reconcile):
    ours("ch_1", status="failed")
    theirs("ch_1", 1500)
    theirs("ch_1", -1500, reporting_category="charge_failure", source_status="failed")
    reconcile()
    assert found() == {}


def test_another_installations_charge_is_told_apart_and_so_is_its_refund(reconcile):
    theirs("ch_1", metadata={"instance": "other-shop", "order": "77"})
    theirs("re_1", -100, charge="ch_1")
    theirs("ch_2", metadata={"instance": "everycent"})
    reconcile()
    assert found() == {
        "ch_1": Kind.FOREIGN_INSTANCE,
        "re_1": Kind.FOREIGN_INSTANCE,
        "ch_2": Kind.MISSING_IN_OUR_SYSTEM,
    }
    assert the("ch_1").severity == "low"
    assert the("ch_2").severity == "high"


def test_a_second_charge_for_one_payment_is_a_duplicate(reconcile):
    theirs("ch_1", metadata={"payment": "pay_1"})
    ours("ch_1")
    theirs("ch_2", metadata={"payment": "pay_1"})  # another intent, our number
    theirs("ch_3", payment_intent="pi_1")  # the same intent
    reconcile()
    assert found() == {"ch_2": Kind.DUPLICATE_CHARGE, "ch_3": Kind.DUPLICATE_CHARGE}


@pytest.mark.parametrize("theirs_minor", [1500, 1400])
def test_the_only_charge_of_a_payment_under_another_id_is_no_second_one(reconcile, theirs_minor):
    """To give it back would leave the provider nothing of what the customer paid. It is offered as a link."""
    payment = ours("ch_8", provider_reference="pi_1")
    theirs("ch_9", theirs_minor, payment_intent="pi_1")
    withdrawn = theirs("ch_8", payment_intent="pi_1")
    ProviderTransaction.objects.filter(pk=withdrawn).update(withdrawn_at=NOON)
    reconcile()
    assert found() == {"ch_8": Kind.MISSING_IN_STRIPE, "ch_9": Kind.MISSING_IN_OUR_SYSTEM}
    (candidate,) = the("ch_9").evidence["candidates"]
    assert (candidate["source"], candidate["id"], "intent" in candidate["agrees"]) == ("ch_8", str(payment.pk), True)
    ProviderTransaction.objects.filter(pk=withdrawn).update(withdrawn_at=None)  # both were taken after all
    reconcile()
    assert found() == {"ch_9": Kind.DUPLICATE_CHARGE}


@pytest.mark.guard(14)
def test_no_category_is_passed_over_and_unknown_ones_alarm(reconcile):
    """One row of each: an object of ours that is missing, a fee that is posted, an adjustment to take over, or unknown."""
    rows = {}
    for kind, categories in matching.CATEGORIES.items():
        for category in categories:
            rows[theirs(f"xx_{category}", -5, reporting_category=category, fee_minor=0, net_minor=-5)] = kind
    strange = theirs("zz_1", 999, reporting_category="tulip_futures", fee_minor=0, net_minor=999)
    report = reconcile()
    assert {
        (item.object_kind, item.kind) for item in Discrepancy.objects.all()
    } == {
        ("charge", Kind.MISSING_IN_OUR_SYSTEM),
        ("refund", Kind.MISSING_IN_OUR_SYSTEM_REFUND),
        ("dispute", Kind.DISPUTE_UNEXPECTED),
        ("payout", Kind.PAYOUT_DIFFERENCE),
        ("adjustment", Kind.MISSING_IN_OUR_SYSTEM),
        ("other", Kind.UNKNOWN_TYPE),
    }  # fmt: skip
    told = {transaction for item in Discrepancy.objects.all() for transaction in item.evidence["transactions"]}
    costs = {row for row, kind in rows.items() if kind == "cost"}
    assert told == rows.keys() - costs | {strange}
    assert set(JournalEntry.objects.values_list("key", flat=True)) == {f"fee:{row}" for row in costs}
    assert the(strange).kind == Kind.UNKNOWN_TYPE
    assert reconcile().kinds[Kind.UNKNOWN_TYPE] == KindCounts(persisting=1)
    assert report.kinds[Kind.UNKNOWN_TYPE] == KindCounts(new=1)


def test_corrections_belong_to_what_we_say(reconcile):
    ours("ch_1", 1500, corrected_minor=-1500)
    ours("ch_2", 1500, corrected_minor=50)
    theirs("ch_2", 1550)
    reconcile()
    assert found() == {}


# --- Timing -----------------------------------------------------------------------------------------


def test_near_midnight_an_item_is_timing_until_an_hour_after_it(reconcile):
    midnight = DAY + NEXT_DAY
    ours("ch_near", at=midnight - timedelta(minutes=30))
    theirs("ch_stray", at=midnight - timedelta(minutes=1))
    ours("ch_far", at=midnight - timedelta(minutes=61))
    report = reconcile(now=midnight + timedelta(minutes=10))
    states = dict(Discrepancy.objects.values_list("source", "state"))
    assert states == {"ch_near": "timing", "ch_stray": "timing", "ch_far": "open"}
    assert the("ch_near").becomes_break_at == midnight + HOUR
    assert report.open_count == 1
    assert report.kinds[Kind.MISSING_IN_STRIPE] == KindCounts(new=1, timing=1)
    theirs("ch_near", at=midnight + timedelta(minutes=5))
    report = reconcile(now=midnight + HOUR)
    assert (the("ch_near").state, the("ch_near").closed_as) == ("resolved", "auto")
    assert the("ch_stray").state == "open"
    assert report.kinds[Kind.MISSING_IN_OUR_SYSTEM] == KindCounts(new=1)
    assert report.kinds[Kind.MISSING_IN_STRIPE] == KindCounts(persisting=1, resolved=1)


def test_away_from_midnight_nothing_is_timing(reconcile):
    ours("ch_1", at=DAY + HOUR)
    reconcile(now=DAY + 2 * HOUR)  # a provisional run, right after it
    assert the("ch_1").state == "open"


def test_different_amounts_are_never_timing(reconcile):
    late = DAY + NEXT_DAY - timedelta(minutes=1)
    ours("ch_1", 1, at=late)
    theirs("ch_1", 2, at=late)
    reconcile(now=late + timedelta(minutes=2))
    assert the("ch_1").state == "open"


@pytest.fixture
def unhandled(reconcile) -> Delivery:
    """News of a charge that our books do not have, which no worker has come to; a run has just looked, at NOON + HOUR."""
    ours("ch_1", status="pending")
    theirs("ch_1")
    message = Message.objects.create(name="payments.provider_event_received.v1", key="pi_1", payload={})
    delivery = Delivery.objects.create(message=message, handler="payments.apply_provider_event", key="pi_1")
    reconcile(now=NOON + HOUR)
    return delivery


def test_an_unhandled_message_is_evidence_for_timing_until_it_is_handled(unhandled, reconcile):
    item = the("ch_1")
    assert (item.state, item.becomes_break_at) == ("timing", NOON + 2 * HOUR)
    assert item.evidence["timing"] == "a message about it is not handled yet"
    reconcile(now=NOON + HOUR * 3 / 2)
    assert the("ch_1").becomes_break_at == NOON + 2 * HOUR  # no later run puts it off
    reconcile(now=NOON + 2 * HOUR)
    assert the("ch_1").state == "open"  # nobody handled it in time


def test_a_message_that_waits_for_a_person_is_no_evidence(unhandled, reconcile):
    Delivery.objects.filter(pk=unhandled.pk).update(state="parked")
    reconcile(now=NOON + HOUR * 3 / 2)
    assert the("ch_1").state == "open"


def test_what_the_provider_has_not_booked_waits_on_where_nobody_asks_it_again(reconcile):
    """A run from a file, a look at one object, or one more that waits than a run may ask about."""
    ours("ch_1", 1500, at=NOON)
    reconcile(now=NOON + HOUR, unbooked=("ch_1",))
    reconcile(now=NOON + 2 * HOUR)
    item = Discrepancy.objects.get()
    assert (item.state, item.evidence["timing"]) == ("timing", "not booked by the provider yet")
    reconcile(now=NOON + 2 * NEXT_DAY)  # until its time is up
    item.refresh_from_db()
    assert item.state == "open"


def test_what_the_provider_never_took_opens_at_once(reconcile):
    """It had said that it books it later; now there is no such charge, or it failed. Another one it books meanwhile: its row
    stands where no run has read yet."""
    for source in ("ch_1", "ch_2", "ch_3"):
        ours(source)
    reconcile(now=NOON + HOUR, unbooked=("ch_1", "ch_2", "ch_3"))
    report = reconcile(now=NOON + 2 * HOUR, never=("ch_1",), booked=("ch_2",))
    assert dict(Discrepancy.objects.values_list("source", "state")) == {
        "ch_1": "open",
        "ch_2": "timing",
        "ch_3": "timing",
    }
    assert report.kinds == {Kind.MISSING_IN_STRIPE: KindCounts(new=1, timing=2)}
    told = the("ch_1").history.latest("id")
    assert (told.to_state, told.why) == ("open", "the provider says that it never took this")


def test_near_midnight_the_providers_word_goes_before_the_clocks(reconcile):
    """Asked about at 23:45, 23:50, two o'clock or not at all: what it said last decides, not where it stands."""
    late = DAY + NEXT_DAY - timedelta(minutes=30)
    for source in ("ch_asked", "ch_later", "ch_last", "ch_never", "ch_nobody", "ch_unknown"):
        ours(source, at=late)
    reconcile(now=late + timedelta(minutes=15), unbooked=("ch_asked",), never=("ch_unknown",))
    assert the("ch_later").becomes_break_at == DAY + NEXT_DAY + HOUR
    assert the("ch_unknown").history.get().to_state == "open"  # not for a moment was it held for timing
    reconcile(now=late + timedelta(minutes=20), unbooked=("ch_later",), never=("ch_never",))
    waits = dict.fromkeys(("ch_asked", "ch_later", "ch_last", "ch_nobody"), "timing")
    waits |= {"ch_never": "open", "ch_unknown": "open"}
    assert dict(Discrepancy.objects.values_list("source", "state")) == waits
    reconcile(now=DAY + NEXT_DAY + 2 * HOUR, unbooked=("ch_last",))
    assert dict(Discrepancy.objects.values_list("source", "state")) == waits | {"ch_nobody": "open"}
    for source in ("ch_asked", "ch_later", "ch_last"):
        item = the(source)
        assert (item.becomes_break_at, item.evidence["timing"]) == (
            late + 2 * NEXT_DAY,
            "not booked by the provider yet",
        )
    reconcile(now=late + 2 * NEXT_DAY)
    assert set(Discrepancy.objects.values_list("state", flat=True)) == {"open"}


def test_what_waits_already_is_asked_about_after_all_else(reconcile, settings):
    for number in range(3):
        ours(f"ch_{number}", at=NOON + timedelta(minutes=number))
    settings.RECONCILE_UNBOOKED_LOOKUPS = 2
    assert matching.awaiting_booking(DAY.date(), now=NOON + HOUR) == [("pi_0", "ch_0"), ("pi_1", "ch_1")]
    reconcile(now=NOON + HOUR, unbooked=("ch_0", "ch_1", "ch_2"))
    ours("ch_new", at=NOON + HOUR)
    assert matching.awaiting_booking(DAY.date(), now=NOON + 2 * HOUR) == [("pi_new", "ch_new"), ("pi_0", "ch_0")]
    reconcile(now=NOON + 2 * HOUR, unbooked=("ch_new", "ch_0"))
    assert set(Discrepancy.objects.values_list("state", flat=True)) == {"timing"}


def test_a_capture_that_the_provider_has_not_booked_is_timing_for_two_days(reconcile):
    ours("ch_1")
    reconcile(now=NOON + HOUR, unbooked=("ch_1",))
    assert (the("ch_1").state, the("ch_1").becomes_break_at) == ("timing", NOON + 2 * NEXT_DAY)
    reconcile(now=NOON + 2 * NEXT_DAY, unbooked=("ch_1",))
    assert the("ch_1").state == "open"


# --- Again and again --------------------------------------------------------------------------------


def test_a_later_run_of_another_day_closes_what_has_healed(reconcile):
    ours("ch_1")
    reconcile()
    theirs("ch_1", at=NOON + NEXT_DAY)
    report = reconcile(DAY + NEXT_DAY)
    assert report.kinds == {Kind.MISSING_IN_STRIPE: KindCounts(resolved=1)}
    item = the("ch_1")
    assert (item.state, item.closed_as, item.verified_by_run_id) == ("resolved", "auto", report.run_id)
    assert [(row.from_state, row.to_state) for row in item.history.order_by("id")] == [
        ("", "open"),
        ("open", "resolved"),
    ]


def test_days_can_be_run_in_any_order(reconcile):
    for offset in range(3):
        at = NOON + offset * NEXT_DAY
        both(f"ch_same{offset}", at=at)
        ours(f"ch_lost{offset}", at=at)
    for offset in (2, 0, 1, 0, 2):
        report = reconcile(DAY + offset * NEXT_DAY, now=DAY + 9 * NEXT_DAY)
        assert (report.matched, report.kinds[Kind.MISSING_IN_STRIPE].new) in ((1, 1), (1, 0))
    assert found() == {f"ch_lost{offset}": Kind.MISSING_IN_STRIPE for offset in range(3)}
    assert Discrepancy.objects.count() == 3


def test_what_a_run_newly_finds_of_another_day_is_reported_as_new(reconcile):
    theirs("ch_1", 1500)
    reconcile()
    ours("ch_1", 1400)
    LateChange.objects.all().delete()  # else its own day is run again before
    report = reconcile(DAY + NEXT_DAY)
    assert report.kinds == {Kind.MISSING_IN_OUR_SYSTEM: KindCounts(resolved=1), Kind.AMOUNT_MISMATCH: KindCounts(new=1)}
    assert set(Discrepancy.objects.values_list("business_date", flat=True)) == {DAY.date()}


def test_a_difference_that_changes_its_kind_closes_the_old_item(reconcile):
    theirs("ch_1", 1500)
    reconcile()
    ours("ch_1", 1400)
    report = reconcile()
    assert report.kinds == {Kind.MISSING_IN_OUR_SYSTEM: KindCounts(resolved=1), Kind.AMOUNT_MISMATCH: KindCounts(new=1)}
    assert found() == {"ch_1": Kind.AMOUNT_MISMATCH}


def test_what_matching_loses_shows_as_a_residual(reconcile):
    both("ch_1", 1500)
    with transaction.atomic():
        matching.match_day(DAY.date(), now=NOON)
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM recon_pair")
        assert matching.day_totals(DAY.date()).residual == {"usd": 0}  # both sides lost alike: theirs 1500, ours 1500
        theirs("ch_2", 70)
        assert matching.day_totals(DAY.date()).residual == {"usd": 70}


def test_the_number_of_queries_does_not_grow_with_the_rows(reconcile):
    def queries() -> int:
        with CaptureQueriesContext(connection, ) as captured:  # fmt: skip
            reconcile()
        return len(captured)

    ours("ch_0")
    theirs("ch_other0")
    few = queries()
    for number in range(1, 40):
        ours(f"ch_{number}")
        theirs(f"ch_other{number}")
        ours(f"ch_both{number}")
        theirs(f"ch_both{number}", fee_minor=0, net_minor=1500)  # a fee that nobody knew is an entry of its own
    assert queries() == few
    assert Payment.objects.count() == 79
