"""Fees, disputes, payouts and adjustments, with rows and answers written by hand."""

from datetime import datetime, timedelta

import pytest
from django.db.models import Sum

from durability.models import Delivery, Message
from payments import ledger
from payments import services as payments
from payments.models import Account, Dispute, JournalEntry, Payment, Payout, PayoutTransaction, Posting
from reconciliation import matching, selectors, services
from reconciliation.models import Discrepancy, ProviderTransaction
from reconciliation.services import perform, repairs
from reconciliation.types import Action, Finding, Kind, KindCounts
from tests.reconciliation.ledgers import (
    DAY,
    MERCHANT,
    NOON,
    booked,
    both,
    found,
    our_dispute,
    our_payout,
    our_refund,
    ours,
    post_fee,
    the,
    theirs,
)

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)
DAYS = timedelta(days=1)


def figures(source: str) -> tuple[int | None, int | None, int | None]:
    item = the(source)
    return item.ours_amount_minor, item.theirs_amount_minor, item.difference_minor


def held(kind: str, currency: str = "usd") -> int:
    """Debit positive."""
    accounts = Account.objects.filter(kind=kind, currency=currency)
    return Posting.objects.filter(account__in=accounts).aggregate(total=Sum("amount_minor"))["total"] or 0


# --- What is not confused ---------------------------------------------------------------------------


def test_ids_of_different_objects_are_not_confused(reconcile):
    """A row's id is not its charge's, and a refund that bears a charge's id is no charge."""
    payment = ours("ch_1", 1000)
    theirs("other", 1000, id="ch_1")  # a row named like our charge, about something else
    theirs("ch_1", -400, id="ch_2", reporting_category="refund", fee_minor=0, net_minor=-400)
    our_refund(payment, "txn_x", 400)
    theirs("zz", -400, id="txn_x", reporting_category="refund", fee_minor=0, net_minor=-400)
    reconcile()
    assert {(item.kind, item.object_kind, item.source) for item in Discrepancy.objects.all()} == {
        (Kind.MISSING_IN_STRIPE, "charge", "ch_1"),
        (Kind.MISSING_IN_OUR_SYSTEM, "charge", "other"),
        (Kind.MISSING_IN_OUR_SYSTEM_REFUND, "refund", "ch_1"),
        (Kind.MISSING_IN_STRIPE_REFUND, "refund", "txn_x"),
        (Kind.MISSING_IN_OUR_SYSTEM_REFUND, "refund", "zz"),
    }


def test_the_type_says_nothing_the_category_all(reconcile):
    """`adjustment` is a dispute, its reversal, a failed refund, or an adjustment."""
    payment = both("ch_1", 9000)
    our_dispute(payment, "dp_1", 3000)
    booked("dp_1", -3000, "dispute", type="adjustment")
    our_refund(payment, "re_1", 500, status="failed")
    booked("re_1", -500, "refund", type="refund")
    booked("re_1", 500, "refund_failure", type="adjustment", source_status="failed")
    alone = booked("", 77, "other_adjustment", type="adjustment")
    reconcile()
    assert found() == {alone: Kind.MISSING_IN_OUR_SYSTEM}


def test_a_local_payment_method_is_matched_like_a_card(reconcile):
    ours("py_1", 1200, provider_reference="pi_9")
    theirs("py_1", 1200, type="payment", payment_intent="pi_9")
    assert reconcile().matched == 1
    assert found() == {}


# --- Fees -------------------------------------------------------------------------------------------


def test_a_fee_that_nobody_told_us_is_posted_once(reconcile):
    """15.00 with a fee of 0.74, and 10.00 refunded for nothing: 0.74 in all, however often it runs."""
    payment = both("ch_1", 1500)
    our_refund(payment, "re_1", 1000)
    theirs("re_1", -1000)
    for _ in range(2):
        reconcile()
        assert (held("fees"), held("provider_clearing")) == (74, -74)
    entry = JournalEntry.objects.get(kind="fee")
    assert (entry.subject, entry.reference, entry.merchant_id) == (payment.number, payment.reference, MERCHANT)
    assert found() == {}


def test_a_fee_of_a_charge_that_is_not_ours_is_not_posted(reconcile):
    theirs("ch_stray", 1500)
    theirs("ch_far", 1500, metadata={"instance": "another"})
    reconcile()
    assert held("fees") == 0


def test_fees_of_the_account_itself_are_posted_from_its_statement(reconcile):
    """2.00 for Radar, 0.35 of tax on it, and 0.10 given back: 2.25."""
    booked("", -200, "fee")
    booked("", -35, "tax")
    booked("", 10, "fee")
    reconcile()
    assert (held("fees"), held("provider_clearing")) == (225, -225)
    assert found() == {}


def test_another_fee_than_we_had_posted_is_a_variance_and_is_corrected(reconcile):
    """Told 0.74, taken 0.81: 0.07 less is there than we thought."""
    payment = ours("ch_1", 1500)
    row = theirs("ch_1", 1500, fee_minor=81, net_minor=1419)
    post_fee(row, 74, payment)
    report = reconcile()
    assert report.kinds == {Kind.FEE_VARIANCE: KindCounts(new=1)}
    assert report.matched == 1  # the charge itself agrees
    assert figures("ch_1") == (74, 81, -7)
    assert (the("ch_1").object_kind, the("ch_1").severity, the("ch_1").payment_id) == ("charge", "low", payment.pk)


def test_a_fee_posted_in_another_currency_is_not_the_rows_though_its_number_is(reconcile, monkeypatch):
    """Told €0.74, taken $0.74: the one is taken back, the other posted."""
    payment = ours("ch_1", 1500)
    row = theirs("ch_1", 1500)
    post_fee(row, 74, payment, currency="eur")
    report = reconcile()
    assert (report.kinds, report.matched) == ({Kind.FEE_VARIANCE: KindCounts(new=1)}, 1)
    item = the("ch_1")
    assert (item.ours_amount_minor, item.ours_currency) == (74, "eur")
    assert (item.theirs_amount_minor, item.theirs_currency, item.difference_minor) == (74, "usd", None)
    assert item.evidence["fees"] == {"posted": {"eur": 74}, "taken": {"usd": 74}}
    monkeypatch.setattr(repairs, "import_sources", lambda sources: 1)
    for _ in range(2):  # again, it changes nothing
        result = perform(
            discrepancy_id=item.pk, action=Action.POST_CORRECTION, by="clara", note="its row", key="pressed"
        )
    assert (result.state, result.closed_as) == ("resolved", "fixed"), result.text
    assert result.text.startswith("Fees of −€0.74 and $0.74 more than before were posted.")
    assert (held("fees", "eur"), held("provider_clearing", "eur")) == (0, 0)
    assert (held("fees"), held("provider_clearing")) == (74, -74)
    reconcile()
    item.refresh_from_db()
    assert item.verified_at is not None
    assert found() == {}
    ProviderTransaction.objects.update(withdrawn_at=NOON)  # of a row that is gone, what was posted last is taken back
    assert matching.fees_of_nothing(payment.number) == [(row, "usd", -74)]


def test_what_stands_in_another_currency_beside_the_fee_is_a_variance_as_well(reconcile):
    """A correction went astray: 0.74 were taken and posted, and 0.10 more in euros."""
    payment = ours("ch_1", 1500)
    row = theirs("ch_1", 1500)
    post_fee(row, 74, payment)
    payments.correct_fee(transaction_id=row, currency="eur", amount_minor=10, cause="1", by="clara", why="a slip")
    reconcile()
    assert (the("ch_1").ours_currency, the("ch_1").ours_amount_minor) == ("eur", 10)
    assert the("ch_1").evidence["fees"] == {"posted": {"eur": 10, "usd": 74}, "taken": {"usd": 74}}
    assert matching.fee_differences("charge", "ch_1") == [(row, "eur", -10)]


def test_a_correction_that_was_corrected_itself_no_longer_counts(reconcile):
    """Told 0.74, corrected to 0.81, which is what they took; then the correction was taken back, and half of that again."""
    payment = ours("ch_1", 1500)
    row = theirs("ch_1", 1500, fee_minor=81, net_minor=1419)
    post_fee(row, 74, payment)
    payments.correct_fee(transaction_id=row, amount_minor=7, cause="1", by="clara", why="their row says so")
    reconcile()
    assert found() == {}
    corrected = JournalEntry.objects.get(kind="fee_correction")
    for number, amount in enumerate((-7, 3)):
        ledger.post(
            key=f"correction_of:{number}",
            kind="reversal",
            debit=ledger.fees("usd"),
            credit=ledger.clearing("usd"),
            amount_minor=amount,
            by="clara",
            corrects=corrected.pk,
        )
        corrected = JournalEntry.objects.get(key=f"correction_of:{number}")
    reconcile()
    assert figures("ch_1") == (77, 81, -4)
    assert matching.fee_differences("charge", "ch_1") == [(row, "usd", 4)]


def test_the_fees_of_all_rows_of_a_charge_are_one(reconcile):
    """A partial capture gave 0.30 of the fee of 0.74 back in its second row."""
    payment = ours("ch_1", 700)
    first = theirs("ch_1", 1000)
    second = theirs("ch_1", -300, reporting_category="partial_capture_reversal", fee_minor=-30, net_minor=-270)
    post_fee(first, 74, payment)
    reconcile()
    assert found() == {}
    assert held("fees") == 44
    assert JournalEntry.objects.filter(key=f"fee:{second}").exists()


# --- Disputes ---------------------------------------------------------------------------------------


def test_a_dispute_that_both_books_hold_is_no_difference_nor_is_its_reversal(reconcile):
    payment = both("ch_1", 9000)
    our_dispute(payment, "dp_open", 1000)
    booked("dp_open", -1000, "dispute", fee=1500)
    our_dispute(payment, "dp_won", 0, amount_minor=2000, status="won")
    booked("dp_won", -2000, "dispute", fee=1500)
    booked("dp_won", 2000, "dispute_reversal")
    our_dispute(payment, "dp_asked", 0, amount_minor=500, status="inquiry_needs_response")
    report = reconcile()
    assert found() == {}
    assert (report.matched, report.theirs_totals) == (1, {"usd": 9000})
    assert held("fees") == 74 + 2 * 1500  # their fees are learnt here as well


def test_disputes_that_differ(reconcile):
    """Unknown; withdrawn again after an appeal; given back unheard of; never withdrawn at all."""
    payment = both("ch_1", 9000)
    booked("dp_new", -1000, "dispute", payment_intent="pi_1", charge="ch_1")
    our_dispute(payment, "dp_appeal", 0, amount_minor=1100, status="won")
    booked("dp_appeal", -1100, "dispute")
    our_dispute(payment, "dp_back", 1200)
    booked("dp_back", -1200, "dispute", at=NOON - HOUR)
    booked("dp_back", 1200, "dispute_reversal")
    our_dispute(payment, "dp_ours", 1300)
    reconcile()
    assert found() == {
        "dp_new": Kind.DISPUTE_UNEXPECTED,
        "dp_appeal": Kind.DISPUTE_UNEXPECTED,
        "dp_back": Kind.DISPUTE_MISSING,
        "dp_ours": Kind.DISPUTE_MISSING,
    }
    # What the provider holds more than our books say.
    assert {source: figures(source) for source in found()} == {
        "dp_new": (None, 1000, -1000),
        "dp_appeal": (0, 1100, -1100),
        "dp_back": (1200, 0, 1200),
        "dp_ours": (1300, None, 1300),
    }
    assert the("dp_new").order_reference == payment.reference
    assert {item.object_kind for item in Discrepancy.objects.all()} == {"dispute"}


def test_a_dispute_of_a_charge_of_another_installation_is_that_ones(reconcile):
    theirs("ch_9", 500, metadata={"instance": "another"})
    booked("dp_9", -500, "dispute", charge="ch_9")
    reconcile()
    assert set(found().values()) == {Kind.FOREIGN_INSTANCE}


def test_news_of_a_dispute_that_nobody_has_worked_on_is_timing(reconcile):
    booked("dp_1", -500, "dispute", payment_intent="pi_1")
    message = Message.objects.create(name="payments.provider_event_received.v1", key="pi_1", payload={})
    Delivery.objects.create(message=message, handler="payments.apply_provider_event", key="pi_1")
    reconcile(now=NOON + HOUR)
    assert (the("dp_1").state, the("dp_1").becomes_break_at) == ("timing", NOON + 2 * HOUR)


# --- Payouts ----------------------------------------------------------------------------------------


def collected(payout: Payout, *nets: int) -> None:
    for number, net in enumerate((*nets, -payout.amount_minor)):
        own = number == len(nets)
        PayoutTransaction.objects.create(
            id=f"txn_{payout.provider_reference}_{number}",
            payout=payout,
            type="payout" if own else "charge",
            reporting_category="payout" if own else "charge",
            source=payout.provider_reference if own else f"ch_{number}",
            amount_minor=net,
            fee_minor=0,
            net_minor=net,
            currency="usd",
            booked_at=NOON,
        )


def test_payouts_that_agree_arrived_on_their_way_and_come_back(reconcile):
    collected(our_payout("po_paid", 5000, listed_at=NOON), 3000, 2000)
    booked("po_paid", -5000, "payout")
    our_payout("po_under_way", 800, status="in_transit")
    booked("po_under_way", -800, "payout")
    our_payout("po_back", 900, status="failed")
    booked("po_back", -900, "payout", at=NOON - 3 * HOUR)
    booked("po_back", 900, "payout_reversal")
    our_payout("po_debt", -700)  # taken from our bank, because the balance owed it
    booked("po_debt", 700, "payout")
    assert reconcile().kinds == {}


def test_payouts_that_differ(reconcile):
    booked("po_new", -100, "payout")
    our_payout("po_ours", 200)
    our_payout("po_amount", 300)
    booked("po_amount", -310, "payout")
    our_payout("po_back", 400)
    booked("po_back", -400, "payout", at=NOON - HOUR)
    booked("po_back", 400, "payout_reversal")
    our_payout("po_gone", 500, status="failed")
    booked("po_gone", -500, "payout")
    collected(our_payout("po_short", 600, listed_at=NOON), 350, 240)
    booked("po_short", -600, "payout")
    reconcile()
    assert set(found().values()) == {Kind.PAYOUT_DIFFERENCE}
    assert {source: figures(source) for source in found()} == {
        "po_new": (None, 100, -100),
        "po_ours": (200, None, 200),
        "po_amount": (300, 310, -10),
        "po_back": (400, 0, 400),
        "po_gone": (500, 500, -500),
        "po_short": (600, 600, 0),
    }
    assert the("po_short").evidence["collected_minor"] == 590
    assert the("po_back").theirs_status == "reversed"


def test_payouts_from_our_bank_that_agree(reconcile):
    """What the provider takes is a payout of a negative amount, and a row of a positive one."""
    collected(our_payout("po_paid", -700, listed_at=NOON), 200, -900)
    booked("po_paid", 700, "payout")
    our_payout("po_under_way", -800, status="in_transit")
    booked("po_under_way", 800, "payout")
    our_payout("po_refused", -900, status="failed")
    booked("po_refused", 900, "payout", at=NOON - 3 * HOUR)
    booked("po_refused", -900, "payout_reversal")
    assert reconcile().kinds == {}


def test_payouts_from_our_bank_that_differ(reconcile):
    booked("po_new", 100, "payout")
    our_payout("po_ours", -200)
    our_payout("po_amount", -300)
    booked("po_amount", 310, "payout")
    our_payout("po_sign", 350)
    booked("po_sign", 350, "payout")
    our_payout("po_refused", -400)
    booked("po_refused", 400, "payout", at=NOON - HOUR)
    booked("po_refused", -400, "payout_reversal")
    our_payout("po_taken", -500, status="failed")
    booked("po_taken", 500, "payout")
    collected(our_payout("po_short", -600, listed_at=NOON), -350, -240)
    booked("po_short", 600, "payout")
    reconcile()
    assert set(found().values()) == {Kind.PAYOUT_DIFFERENCE}
    assert {
        source: figures(source) for source in found()
    } == {  # ours, theirs, what the provider holds more than our books say
        "po_new": (None, -100, 100),
        "po_ours": (-200, None, -200),
        "po_amount": (-300, -310, 10),
        "po_sign": (350, -350, 700),
        "po_refused": (-400, 0, -400),
        "po_taken": (-500, -500, 500),
        "po_short": (-600, -600, 0),
    }
    assert the("po_short").evidence["collected_minor"] == -590
    backlog = {row.kind: row.total for row in selectors.open_by_kind()}
    assert backlog[Kind.PAYOUT_DIFFERENCE].value == {"usd": 100 + 200 + 10 + 700 + 400 + 500}


def test_a_payout_whose_news_waits_is_timing(reconcile):
    booked("po_1", -500, "payout")
    message = Message.objects.create(name="payments.provider_event_received.v1", key="po_1", payload={})
    Delivery.objects.create(message=message, handler="payments.apply_provider_event", key="po_1")
    reconcile(now=NOON + HOUR)
    assert the("po_1").state == "timing"


# --- Adjustments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("category", "kind"), [("risk_reserved_funds", "missing_in_our_system"), ("new", "unknown_type")]
)
def test_what_stands_for_itself_is_taken_over_by_a_person_once(reconcile, category, kind):
    """40.00 are held back with 0.50 for it: the provider holds 40.50 less than our books say."""
    row = booked("", -4000, category, fee=50)
    reconcile()
    assert (the(row).kind, figures(row)) == (kind, (None, -4050, -4050))
    for _ in range(2):
        result = perform(
            discrepancy_id=the(row).pk, action=Action.POST_CORRECTION, by="clara", note="the reserve of May", key="1"
        )
        assert (result.state, result.closed_as) == ("resolved", "fixed")
    assert (held("provider_clearing"), held("write_offs")) == (-4050, 4050)
    report = reconcile()
    assert report.kinds == {}
    assert the(row).verified_by_run_id == report.run_id


def test_what_was_taken_over_wrongly_differs_by_the_rest(reconcile):
    row = booked("", 1000, "topup")
    payments.post_booking(transaction_id=row, currency="usd", amount_minor=900, by="carl", why="misread")
    reconcile()
    assert figures(row) == (900, 1000, 100)


# --- What news told ---------------------------------------------------------------------------------


def told(kind: str, object_kind: str, source: str, payment: Payment) -> None:
    """Of the next day: its rows are in nobody's hands yet."""
    services.open_discrepancy(
        Finding(
            kind=kind,
            object_kind=object_kind,
            source=source,
            order_reference=payment.reference,
            merchant_id=MERCHANT,
            ours_amount_minor=500,
            ours_currency="usd",
            ours_status="succeeded",
            theirs_amount_minor=500,
            theirs_currency="usd",
            theirs_status="succeeded",
            difference_minor=None,
            theirs_at=NOON + DAYS,
        )
    )


def test_what_news_told_of_a_later_day_is_left_alone_until_its_rows_are_read(reconcile):
    """The run of the day before must not call the refund missing, nor close the second charge as if both sides agreed."""
    payment = both("ch_1", 9000)
    our_refund(payment, "re_1", 500, at=NOON + DAYS)
    told(Kind.OVER_REFUNDED, "refund", "re_1", payment)
    told(Kind.DUPLICATE_CHARGE, "charge", "ch_2", payment)
    standing = {(Kind.OVER_REFUNDED, "re_1", "open"), (Kind.DUPLICATE_CHARGE, "ch_2", "open")}
    assert reconcile().kinds == {}
    assert set(Discrepancy.objects.values_list("kind", "source", "state")) == standing
    theirs("re_1", -500, at=NOON + DAYS)
    theirs("ch_2", 500, at=NOON + DAYS, payment_intent="pi_1")  # the intent of ch_1
    reconcile(DAY + DAYS)
    assert set(Discrepancy.objects.values_list("kind", "source", "state")) == standing


# --- Days and currencies ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "day"),
    [
        (DAY, "2026-01-10"),
        (DAY - timedelta(seconds=1), "2026-01-09"),
        (datetime.fromisoformat("2026-01-11T00:30:00+01:00"), "2026-01-10"),  # Berlin has tomorrow already
        (datetime.fromisoformat("2026-01-09T20:00:00-05:00"), "2026-01-10"),  # New York has still yesterday
    ],
)
def test_the_day_is_that_of_utc_whoever_asks_where(reconcile, at, day, settings):
    theirs("ch_1", 1500, at=at)
    settings.TIME_ZONE = "America/New_York"
    reconcile(datetime.fromisoformat(f"{day}T00:00:00Z"))
    assert the("ch_1").business_date.isoformat() == day


def test_currencies_without_and_with_three_decimals_are_whole_minor_units(reconcile):
    both("ch_yen", 500, currency="jpy")
    payment = ours("ch_dinar", 12340, currency="kwd")
    row = theirs("ch_dinar", 12340, currency="kwd", fee_minor=370, net_minor=11970)
    post_fee(row, 360, payment, currency="kwd")
    reconcile()
    assert figures("ch_dinar") == (360, 370, -10)
    assert held("fees", "jpy") == 74


# --- The same, whatever the order -------------------------------------------------------------------


def everything() -> None:
    """Five days, on each a match, and on some a difference that a neighbour decides."""
    payment = both("ch_0", 9000)
    for offset in range(5):
        at = NOON + offset * DAYS
        both(f"ch_same{offset}", at=at)
        ours(f"ch_lost{offset}", at=at)
        theirs(f"ch_stray{offset}", 100 + offset, at=at)
    our_refund(payment, "re_late", 500)
    theirs("re_late", -500)
    theirs("re_late", 500, at=NOON + 3 * DAYS, reporting_category="refund_failure", source_status="failed")
    our_dispute(payment, "dp_back", 1200, at=NOON + DAYS)
    booked("dp_back", -1200, "dispute", at=NOON + DAYS)
    booked("dp_back", 1200, "dispute_reversal", at=NOON + 4 * DAYS)
    our_payout("po_1", 300, at=NOON + 2 * DAYS)
    booked("po_1", -310, "payout", at=NOON + 2 * DAYS)
    booked("txn_reserve", -5, "risk_reserved_funds", id="txn_reserve", at=NOON + 2 * DAYS)
    midnight = DAY + DAYS
    ours("ch_across", at=midnight - timedelta(seconds=1))
    theirs("ch_across", at=midnight + timedelta(seconds=1))


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 2, 0, 4, 1, 0, 3, 2)])
def test_the_order_of_the_runs_and_their_repeats_change_nothing(reconcile, order):
    everything()
    now = DAY + 9 * DAYS
    for offset in order:
        reconcile(DAY + offset * DAYS, now=now)
    seen = Discrepancy.objects.order_by("fingerprint").values_list(
        "fingerprint", "state", "business_date", "difference_minor", "cycle"
    )
    day = DAY.date()
    assert list(seen) == sorted(
        [
            *((f"missing_in_stripe:ch_lost{n}", "open", day + n * DAYS, -1500, 1) for n in range(5)),
            *((f"missing_in_our_system:ch_stray{n}", "open", day + n * DAYS, 100 + n, 1) for n in range(5)),
            ("status_mismatch_refund:re_late", "open", day + 3 * DAYS, 500, 1),
            ("dispute_missing:dp_back", "open", day + 4 * DAYS, 1200, 1),
            ("payout_difference:po_1", "open", day + 2 * DAYS, -10, 1),
            ("missing_in_our_system:txn_reserve", "open", day + 2 * DAYS, -5, 1),
        ]
    )
    for item in Discrepancy.objects.all():
        assert item.history.count() == 1
    Dispute.objects.update(withdrawn_minor=0)  # its news came
    assert services.reconcile_day(day=day, by="test").kinds[Kind.DISPUTE_MISSING] == KindCounts(resolved=1)
