"""The statement closes: opening + bookings = closing, proved against numbers that come from elsewhere."""

import csv
import io
import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse

from foundation.database import database_now
from foundation.errors import InvalidInput
from payments import ledger
from payments import services as payments
from payments.models import JournalEntry, Payment, Payout, PayoutTransaction
from reconciliation import books as statements
from reconciliation import matching, selectors, services
from reconciliation.errors import BooksStarted, NoteMissing
from reconciliation.models import (
    DayTotal,
    Discrepancy,
    ProviderBalanceReading,
    ProviderRead,
    ProviderTransaction,
    ReconciliationRun,
)
from reconciliation.types import Kind, KindCounts, Proof
from tests.reconciliation.ledgers import (
    DAY,
    NOON,
    booked,
    found,
    our_payout,
    our_refund,
    ours,
    post_fee,
    the,
    theirs,
)
from tests.reconciliation.test_kinds import collected

HOUR = timedelta(hours=1)
DAYS = timedelta(days=1)


def was_read(first: datetime, last: datetime) -> None:
    ProviderRead.objects.create(since=first, until=last + DAYS, finished_at=last + 2 * DAYS)


def provider_holds(minor: int, *last_rows: str, currency: str = "usd", unsure: tuple[str, ...] = ()) -> None:
    """It says so, and that these are its newest rows."""
    newest = ProviderTransaction.objects.filter(pk__in=last_rows).first()
    ProviderBalanceReading.objects.create(
        balances={currency: {"available": minor - 1, "pending": 1}},
        through_at=newest.created_at if newest else None,
        edge=list(last_rows),
        unsure=list(unsure),
    )


def capture(payment: Payment) -> Payment:
    """Our ledger's entry, as the capture posts it."""
    ledger.post(
        key=f"capture:{payment.number}",
        kind="capture",
        debit=ledger.clearing(payment.currency),
        credit=ledger.unallocated_receipts(payment.currency),
        amount_minor=payment.captured_minor,
        by="test",
        subject=payment.number,
    )
    return payment


def sold(source: str, amount: int = 1500, *, fee: int = 74, at: datetime = NOON, currency: str = "usd") -> str:
    """In both books, our ledger included. Returns the row."""
    payment = capture(ours(source, amount, at=at, currency=currency))
    row = theirs(source, amount, at=at, fee_minor=fee, net_minor=amount - fee, currency=currency)
    post_fee(row, fee, payment, currency)
    return row


def proofs(day: datetime = DAY, currency: str = "usd") -> dict[str, Proof]:
    (statement,) = (one for one in statements.statements(day.date()) if one.currency == currency)
    return {proof.name: proof for proof in statement.proofs}


@pytest.fixture
def whole_day(reconcile, transactional_db):
    was_read(DAY, DAY + DAYS)
    return reconcile


# --- Arithmetic -------------------------------------------------------------------------------------


def test_a_days_bookings_lead_from_its_opening_to_its_closing_in_each_currency(whole_day):
    """usd: 14.26 + 29.13 − 5.00 − 20.00 (with 15.00 for it) = 3.39; the day after adds 1.00 less 0.05. jpy: 480."""
    sold("ch_1", 1500, fee=74)
    sold("ch_2", 3000, fee=87)
    theirs("re_1", -500)
    booked("dp_1", -2000, "dispute", fee=1500)
    sold("ch_3", 500, fee=20, currency="jpy")
    sold("ch_4", 100, fee=5, at=NOON + DAYS)
    report = whole_day()
    usd = report.statement["usd"]
    assert (usd.opening_minor, usd.closing_minor) == (0, 1426 + 2913 - 500 - 3500)
    assert {line.category: (line.rows, line.gross_minor, line.fee_minor, line.net_minor) for line in usd.lines} == {
        "charge": (2, 4500, 161, 4339),
        "refund": (1, -500, 0, -500),
        "dispute": (1, -2000, 1500, -3500),
    }
    assert report.statement["jpy"].closing_minor == 480
    after = whole_day(DAY + DAYS).statement
    assert (after["usd"].opening_minor, after["usd"].closing_minor) == (339, 339 + 95)
    assert (after["jpy"].opening_minor, after["jpy"].lines, after["jpy"].closing_minor) == (480, (), 480)


@pytest.mark.django_db(transaction=True)
def test_rows_that_changed_or_were_withdrawn_are_added_up_anew(reconcile):
    row = sold("ch_1")
    sold("ch_2")
    reconcile()
    ProviderTransaction.objects.filter(pk=row).update(withdrawn_at=NOON)
    assert reconcile().statement["usd"].closing_minor == 1426
    assert DayTotal.objects.get().rows == 1


# --- Against the provider's balance -----------------------------------------------------------------


def test_the_providers_balance_proves_the_closing(whole_day):
    provider_holds(2852, sold("ch_1"), sold("ch_2"))
    report = whole_day()
    assert proofs()["balance"].residual_minor == 0
    assert (report.residual, report.kinds) == ({"usd": 0}, {})


def test_a_balance_that_is_off_is_a_discrepancy_until_it_is_not(whole_day):
    """The provider holds 3.00 more than its rows add up to: one of them was never told."""
    provider_holds(1726, sold("ch_1"))
    report = whole_day()
    assert report.residual == {"usd": 300}
    item = the("usd:balance")
    assert (item.kind, item.object_kind, item.state) == (Kind.STATEMENT_RESIDUAL, "statement", "open")
    assert (item.ours_amount_minor, item.theirs_amount_minor, item.difference_minor) == (1426, 1726, 300)
    assert whole_day().kinds == {Kind.STATEMENT_RESIDUAL: KindCounts(persisting=1)}
    report = whole_day(DAY + DAYS)  # it is off on the next day as well, and one item
    assert report.kinds == {Kind.STATEMENT_RESIDUAL: KindCounts(persisting=1)}
    assert the("usd:balance").business_date == DAY.date()
    row = booked("", 300, "contribution", at=NOON - HOUR)
    payments.post_booking(transaction_id=row, currency="usd", amount_minor=300, by="ann", why="a gift")
    report = whole_day(DAY)  # the newest day is proved again with it
    assert (report.residual, report.kinds[Kind.STATEMENT_RESIDUAL]) == ({"usd": 0}, KindCounts(resolved=1))
    assert the("usd:balance").closed_as == "auto"
    assert whole_day(DAY + DAYS).kinds == {}


def test_an_older_day_does_not_speak_for_the_newest(whole_day):
    """The first day's balance holds; the second one's is 3.00 off."""
    provider_holds(1426, sold("ch_1"))
    provider_holds(1426 + 1426 + 300, sold("ch_2", at=NOON + DAYS))
    assert whole_day().residual == {"usd": 0}
    assert whole_day(DAY + DAYS).residual == {"usd": 300}
    report = whole_day()
    assert (report.residual, report.kinds) == ({"usd": 0}, {Kind.STATEMENT_RESIDUAL: KindCounts(persisting=1)})
    assert (the("usd:balance").state, the("usd:balance").business_date) == ("open", (DAY + DAYS).date())


def test_an_accepted_residual_stays_accepted_while_it_is_the_same(whole_day):
    """Each day holds another balance; it is off by the same 3.00."""
    provider_holds(1726, sold("ch_1"))
    assert whole_day().residual == {"usd": 300}
    services.perform(discrepancy_id=the("usd:balance").pk, action="accept", by="test", note="Stripe looks for it")
    second = sold("ch_2", at=NOON + DAYS)
    provider_holds(1726 + 1426, second)
    report = whole_day(DAY + DAYS)
    assert (report.residual, report.kinds, the("usd:balance").closed_as) == ({"usd": 0}, {}, "accepted")
    proof = proofs(DAY + DAYS)["balance"]
    assert (proof.residual_minor, proof.accepted) == (300, True)
    assert report.statement["usd"].is_proved
    provider_holds(1726 + 1426 + 1, second)
    assert whole_day(DAY + DAYS).residual == {"usd": 301}
    assert the("usd:balance").state == "open"


def test_money_in_a_currency_without_any_row_is_off_as_well(whole_day):
    row = sold("ch_1")
    provider_holds(500, row, currency="eur")
    assert whole_day().residual == {"eur": 500, "usd": -1426}
    assert set(found()) == {"eur:balance", "usd:balance"}


def test_money_that_our_books_alone_hold_in_a_currency_is_off_as_well(whole_day):
    """5.00 EUR on our clearing account, of which the provider has neither a row nor a balance."""
    provider_holds(1426, sold("ch_1"))
    for kind, minor in (("slip", 500), ("put_right", -500)):
        if minor < 0:
            item = the("eur:clearing")
            assert (item.kind, item.difference_minor, item.state) == (Kind.STATEMENT_RESIDUAL, -500, "open")
            assert (item.ours_amount_minor, item.theirs_amount_minor) == (500, 0)
        ledger.post(
            key=f"{kind}:{DAY.date()}",
            kind="write_off",  # dated on that day
            debit=ledger.clearing("eur"),
            credit=ledger.write_offs("eur"),
            amount_minor=minor,
            by="clara",
        )
        report = whole_day()
        statement = report.statement["eur"]
        assert (statement.opening_minor, statement.lines, statement.closing_minor) == (0, (), 0)
        assert report.residual == {"eur": -max(minor, 0), "usd": 0}
    assert (the("eur:clearing").state, the("eur:clearing").closed_as) == ("resolved", "auto")
    assert found() == {}


def test_a_fee_in_a_currency_of_which_the_provider_knows_nothing_is_explained_by_its_item(whole_day):
    """€0.74 were posted for a fee of $0.74: both statements close beside the item that says so."""
    payment = capture(ours("ch_1"))
    post_fee(theirs("ch_1"), 74, payment, currency="eur")
    report = whole_day()
    assert found() == {"ch_1": Kind.FEE_VARIANCE}
    assert report.residual == {"eur": 0, "usd": 0}
    assert proofs(currency="eur")["clearing"].explained_minor == 74


def test_a_balance_is_brought_to_the_cut_by_the_rows_between(whole_day):
    """Read at one o'clock of the next day, when 1.00 more had come in."""
    sold("ch_1")
    provider_holds(1426 + 95, sold("ch_2", 100, fee=5, at=DAY + DAYS + HOUR))
    whole_day(DAY + DAYS)
    whole_day()
    proof = proofs()["balance"]
    assert (proof.says_minor, proof.residual_minor) == (1426, 0)


def test_what_was_booked_while_the_balance_was_read_may_be_in_it_or_not(whole_day):
    before, unsure = (sold("ch_1"), sold("ch_2")), (sold("ch_3", at=NOON + HOUR),)
    provider_holds(2 * 1426, *before, unsure=unsure)
    whole_day()
    for held_minor, residual_minor in ((2852, 0), (4278, 0), (4000, 0), (4279, 1), (2851, -1)):
        provider_holds(held_minor, *before, unsure=unsure)
        assert proofs()["balance"].residual_minor == residual_minor


def test_rows_of_the_same_second_count_by_their_names(whole_day):
    first, _ = sold("ch_1"), sold("ch_2")
    provider_holds(1426, first)
    whole_day()
    assert proofs()["balance"].residual_minor == 0


@pytest.mark.django_db(transaction=True)
def test_nothing_is_proved_from_days_that_nobody_read(reconcile):
    provider_holds(1726, sold("ch_1"))
    sold("ch_0", at=NOON - 2 * DAYS)
    was_read(DAY, DAY)
    report = reconcile()
    assert report.residual == {"usd": 0}
    assert "not every row since 2026-01-08 was read" in {proof.note for proof in proofs().values()}
    assert found() == {}


# --- Against our own ledger -------------------------------------------------------------------------


def test_our_clearing_account_says_what_the_provider_holds(whole_day):
    sold("ch_1")
    sold("ch_2", 500, fee=20, currency="jpy")
    sold("ch_3", at=NOON + DAYS)  # of the day after: posted as well, and not at the cut
    report = whole_day()
    proof = proofs()["clearing"]
    assert (proof.says_minor, proof.explained_minor, proof.residual_minor) == (1426, 0, 0)
    assert proofs(currency="jpy")["clearing"].says_minor == 480
    assert report.kinds == {}


def test_a_charge_of_before_midnight_that_is_booked_after_it_is_in_the_next_days_balance(whole_day):
    """Both books know it, and no item is there to explain it: each statement closes all the same."""
    sold("ch_1")
    midnight = DAY + DAYS
    payment = capture(ours("ch_late", 700, at=midnight - timedelta(seconds=5)))
    post_fee(theirs("ch_late", 700, at=midnight + timedelta(seconds=5), fee_minor=50, net_minor=650), 50, payment)
    first, second = whole_day(), whole_day(DAY + DAYS)
    assert (first.kinds, second.kinds) == ({}, {})
    assert (first.residual, second.residual) == ({"usd": 0}, {"usd": 0})
    assert (first.statement["usd"].closing_minor, second.statement["usd"].closing_minor) == (1426, 1426 + 650)


def test_what_our_ledger_did_not_post_is_a_residual_that_no_match_shows(whole_day):
    """The payment says that it was captured; its entry is missing."""
    payment = ours("ch_1")
    post_fee(theirs("ch_1"), 74, payment)
    report = whole_day()
    assert (report.matched, report.residual) == (1, {"usd": 1500})
    item = the("usd:clearing")
    assert (item.ours_amount_minor, item.theirs_amount_minor, item.difference_minor) == (-74, 1426, 1500)
    capture(payment)
    assert whole_day().residual == {"usd": 0}
    assert the("usd:clearing").state == "resolved"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1), (2, 2, 0, 1, 0)])
def test_a_residual_is_the_same_item_in_whatever_order_the_days_are_run(whole_day, order):
    """15.00 of the first day never got into our ledger. The newest day cannot tell until the days before it were run: then it does."""
    was_read(DAY, DAY + 2 * DAYS)
    post_fee(theirs("ch_1"), 74, ours("ch_1"))
    sold("ch_2", at=NOON + DAYS)
    sold("ch_3", at=NOON + 2 * DAYS)
    reports = [whole_day(DAY + offset * DAYS) for offset in order]
    item = the("usd:clearing")
    assert found() == {"usd:clearing": Kind.STATEMENT_RESIDUAL}
    assert (item.state, item.business_date, item.difference_minor, item.cycle) == ("open", DAY.date(), 1500, 1)
    assert item.evidence["day"] == str((DAY + 2 * DAYS).date())
    assert Kind.STATEMENT_RESIDUAL in reports[-1].kinds


def test_a_day_that_is_proved_once_the_gap_before_it_is_filled_says_so(whole_day):
    """Ours of the newest day is missing in the ledger, and only the older day's run can tell: the older day itself closes."""
    sold("ch_1")
    post_fee(theirs("ch_2", at=NOON + DAYS), 74, ours("ch_2", at=NOON + DAYS))
    assert whole_day(DAY + DAYS).residual == {"usd": 0}
    report = whole_day()
    assert (report.residual, report.kinds) == ({"usd": 0}, {Kind.STATEMENT_RESIDUAL: KindCounts(new=1)})
    assert the("usd:clearing").business_date == (DAY + DAYS).date()
    newest = ReconciliationRun.objects.get(date=(DAY + DAYS).date())
    assert newest.residual == {"usd": 1500}
    assert [proof["residual_minor"] for proof in newest.statement["usd"]["proofs"]] == [None, 1500, 0]


def test_what_changed_behind_an_older_day_is_no_residual_before_it_was_run(whole_day):
    """A row of the newest day came after its run: the older day's run does not take it for money that nothing explains."""
    sold("ch_1")
    sold("ch_2", at=NOON + DAYS)
    whole_day()
    whole_day(DAY + DAYS)
    theirs("ch_late", at=NOON + DAYS)
    assert whole_day().kinds == {}
    assert found() == {}
    whole_day(DAY + DAYS)
    assert found() == {"ch_late": Kind.MISSING_IN_OUR_SYSTEM}


def test_an_older_days_dry_run_proves_the_newest_day_and_stores_nothing(whole_day):
    post_fee(theirs("ch_1"), 74, ours("ch_1"))
    sold("ch_2", at=NOON + DAYS)
    whole_day(DAY + DAYS)
    before = ReconciliationRun.objects.values("date", "residual", "statement").get()
    report = services.reconcile_day(day=DAY.date(), by="test", dry_run=True)
    assert (report.residual, report.kinds) == ({"usd": 1500}, {Kind.STATEMENT_RESIDUAL: KindCounts(new=1)})
    assert not Discrepancy.objects.exists()
    assert ReconciliationRun.objects.values("date", "residual", "statement").get() == before


def test_open_items_explain_the_difference_between_both_to_the_cent(whole_day):
    """Each by what it really moved: fees included, whichever side has more."""
    sold("ch_same")
    capture(ours("ch_lost", 1100))
    theirs("ch_stray", 1200, fee_minor=65, net_minor=1135)
    capture(ours("ch_more", 1300))
    theirs("ch_more", 1350, fee_minor=69, net_minor=1281)
    payment = ours("ch_fee", 1000)
    post_fee(theirs("ch_fee", 1000, fee_minor=60, net_minor=940), 59, capture(payment))
    our_refund(payment, "re_lost", 200)  # ours says so, our ledger does not: see below
    booked("dp_1", -400, "dispute", fee=1500)
    booked("", -77, "risk_reserved_funds")
    report = whole_day()
    assert len(report.kinds) == 6
    proof = proofs()["clearing"]
    # lost −11.00, stray 11.35, more 0.50, fee −0.01, dispute −19.00, reserve −0.77
    assert proof.explained_minor == -1100 + 1135 + 50 - 1 - 1900 - 77
    assert proof.residual_minor == 0
    assert report.residual == {"usd": 0}


def arrive(payout: Payout) -> None:
    """It is at our bank, and our ledger says so."""
    Payout.objects.filter(pk=payout.pk).update(status="paid")
    ledger.post(
        key=f"payout:{payout.number}",
        kind="payout",
        debit=ledger.bank("usd"),
        credit=ledger.clearing("usd"),
        amount_minor=payout.amount_minor,
        by="test",
        subject=payout.number,
    )


def test_a_payout_on_its_way_explains_itself_until_it_arrives(whole_day):
    sold("ch_1")
    booked("po_1", -1000, "payout")
    payout = our_payout("po_1", 1000, status="in_transit")
    assert whole_day().residual == {"usd": 0}
    assert proofs()["clearing"].explained_minor == -1000
    arrive(payout)
    assert whole_day().residual == {"usd": 0}
    assert proofs()["clearing"].explained_minor == 0
    assert found() == {}


def test_a_payout_from_our_bank_closes_with_its_sign(whole_day):
    """29.13 are earned and paid out, then 20.00 given back and taken from our bank: nothing is left."""
    sold("ch_1", 3000, fee=87)
    refund = our_refund(Payment.objects.get(), "re_1", 2000)
    theirs("re_1", -2000)
    ledger.post(
        key=f"refund:{refund.number}",
        kind="refund",
        debit=ledger.unallocated_receipts("usd"),
        credit=ledger.clearing("usd"),
        amount_minor=2000,
        by="test",
        subject=refund.number,
    )
    booked("po_1", -2913, "payout")
    paid, taken = (
        our_payout("po_1", 2913, status="in_transit", listed_at=NOON),
        our_payout("po_2", -2000, status="in_transit", listed_at=NOON),
    )
    collected(paid, 2913)
    collected(taken, -2000)
    arrive(paid)
    provider_holds(0, booked("po_2", 2000, "payout", at=NOON + HOUR))
    assert whole_day().residual == {"usd": 0}
    assert {name: (proof.says_minor, proof.explained_minor) for name, proof in proofs().items()} == {
        "balance": (0, 0),
        "clearing": (-2000, 2000),  # the provider has booked it, we book it when it is there
        "payouts": (2913 - 2000, 0),
    }
    arrive(taken)
    report = whole_day()
    assert (report.residual, report.kinds) == ({"usd": 0}, {})
    assert (proofs()["clearing"].says_minor, proofs()["clearing"].explained_minor) == (0, 0)
    assert report.statement["usd"].is_proved


def paid_back(payment: Payment, source: str, amount: int, *, fee: int, at: datetime = NOON) -> None:
    """A refund in both books, our ledger included, for which the provider takes a fee."""
    refund = our_refund(payment, source, amount, at=at)
    theirs(source, -amount, at=at, fee_minor=fee, net_minor=-amount - fee)
    ledger.post(
        key=f"refund:{refund.number}",
        kind="refund",
        debit=ledger.unallocated_receipts("usd"),
        credit=ledger.clearing("usd"),
        amount_minor=amount,
        by="test",
        subject=refund.number,
    )


@pytest.mark.parametrize("reason", ["open", "accepted"])
def test_an_item_explains_what_its_own_rows_moved_and_no_other_rows_of_its_payment(whole_day, reason):
    """The fee of 0.74 was 1.00 after all; that the refund of the day after costs 0.30 is no part of it."""
    row = sold("ch_1")
    ProviderTransaction.objects.filter(pk=row).update(fee_minor=100, net_minor=1400)
    whole_day()
    if reason == "accepted":
        services.perform(discrepancy_id=the("ch_1").pk, action="accept", by="test", note="26 cents")
    paid_back(Payment.objects.get(), "re_1", 500, fee=30, at=NOON + DAYS)
    for day in (DAY + DAYS, DAY):
        assert whole_day(day).residual == {"usd": 0}
        assert proofs(day)["clearing"].explained_minor == -26


def test_a_payout_that_comes_back_is_explained_at_each_cut(whole_day):
    """Paid on the 10th, sent back on the 13th: at each day's end both books hold what they held then."""
    was_read(DAY + 2 * DAYS, DAY + 4 * DAYS)
    sold("ch_1", 9000)
    booked("po_1", -5000, "payout")
    payout = our_payout("po_1", 5000, status="in_transit")
    arrive(payout)
    assert whole_day().residual == {"usd": 0}
    booked("po_1", 5000, "payout_reversal", at=NOON + 3 * DAYS)
    Payout.objects.update(status="failed")
    ledger.post(
        key=f"payout_failed:{payout.number}",
        kind="payout_failed",
        debit=ledger.clearing("usd"),
        credit=ledger.bank("usd"),
        amount_minor=5000,
        by="test",
        subject=payout.number,
    )
    for late in (1, 2, 3, 0):
        assert whole_day(DAY + late * DAYS).residual == {"usd": 0}, late
    assert found() == {}


def test_a_payout_that_never_arrived_explains_itself_until_it_is_back(whole_day):
    was_read(DAY + 2 * DAYS, DAY + 4 * DAYS)
    sold("ch_1", 9000)
    booked("po_1", -5000, "payout")
    booked("po_1", 5000, "payout_reversal", at=NOON + 2 * DAYS)
    our_payout("po_1", 5000, status="failed")
    explained = []
    for late in range(4):
        assert whole_day(DAY + late * DAYS).residual == {"usd": 0}, late
        explained.append(proofs(DAY + late * DAYS)["clearing"].explained_minor)
    assert explained == [-5000, -5000, 0, 0]


def test_a_charge_that_is_booked_in_two_rows_across_midnight_closes_on_both_days(whole_day):
    """10.00 on one day and 5.00 on the next; to us it is one payment of 15.00."""
    payment = capture(ours("ch_1"))
    post_fee(theirs("ch_1", 1000, fee_minor=50, net_minor=950), 50, payment)
    post_fee(theirs("ch_1", 500, at=NOON + DAYS, fee_minor=24, net_minor=476), 24, payment)
    assert whole_day().residual == {"usd": 0}
    assert proofs()["clearing"].explained_minor == -500
    assert whole_day(DAY + DAYS).residual == {"usd": 0}
    assert found() == {}


def test_what_was_accepted_is_explained_by_what_both_books_hold_of_it_now(whole_day):
    """Accepted as missing, and then its webhook came after all."""
    sold("ch_1")
    row = theirs("ch_2", 3000)
    whole_day()
    services.perform(discrepancy_id=the("ch_2").pk, action="accept", by="test", note="never mind")
    assert (proofs()["clearing"].explained_minor, proofs()["clearing"].residual_minor) == (2926, 0)
    post_fee(row, 74, capture(ours("ch_2", 3000)))
    assert (proofs()["clearing"].explained_minor, proofs()["clearing"].residual_minor) == (0, 0)


def test_what_was_accepted_and_heals_is_accepted_no_more(whole_day):
    """The next run looks at it again, of whatever day it is; what nothing happened to, it leaves alone."""
    sold("ch_1")
    row, _ = theirs("ch_2", 3000), theirs("ch_3", 4000)
    whole_day()
    for source in ("ch_2", "ch_3"):
        services.perform(discrepancy_id=the(source).pk, action="accept", by="test", note="never mind")
    post_fee(row, 74, capture(ours("ch_2", 3000)))
    report = whole_day(DAY + DAYS)
    healed = the("ch_2")
    assert (healed.state, healed.closed_as) == ("resolved", "auto")
    assert healed.verified_by_run_id in {run.run_id for run in (*report.run_again, report)}  # its own day's, run again
    assert "until now the difference was accepted" in healed.history.latest("id").why
    assert (the("ch_3").closed_as, report.kinds) == ("accepted", {})
    Payment.objects.filter(charge_reference="ch_2").update(captured_minor=2999)
    assert whole_day().kinds[Kind.AMOUNT_MISMATCH].new == 1


def test_what_was_accepted_and_differs_otherwise_is_open_again(whole_day):
    ours("ch_1", 3000)
    row = theirs("ch_1", 3001)
    whole_day()
    services.perform(discrepancy_id=the("ch_1").pk, action="accept", by="test", note="a cent")
    ProviderTransaction.objects.filter(pk=row).update(amount_minor=9000, net_minor=8926, seen_at=database_now())
    whole_day(DAY + DAYS)
    assert (the("ch_1").state, the("ch_1").difference_minor) == ("open", 6000)


@pytest.mark.parametrize(
    ("known_by", "days_later"), [("its charge", 0), ("its intent", 0), ("its intent", 20), ("nothing", 0)]
)
def test_the_fee_of_a_charge_that_failed_later_is_learnt(whole_day, known_by, days_later):
    """15.00 came and went; the provider keeps 0.74 for it. So it is in no book, but for its fee."""
    came: dict[str, Any] = {"payment_intent": "pi_1", "source_status": "failed"}
    if known_by != "nothing":
        charge: dict[str, Any] = {"charge_reference": "ch_1"} if known_by == "its charge" else {}
        ours("ch_1", status="failed", provider_reference="pi_1", **charge)
    row = theirs("ch_1", **came)
    gone = NOON + days_later * DAYS
    theirs("ch_1", -1500, at=gone, fee_minor=0, net_minor=-1500, reporting_category="charge_failure", **came)
    was_read(DAY + DAYS, gone)
    for day in range(days_later):
        whole_day(DAY + day * DAYS)
    for _ in range(2):
        assert whole_day(DAY + days_later * DAYS).residual == {"usd": 0}
    entry = JournalEntry.objects.get(kind="fee")
    assert (entry.key, bool(entry.subject)) == (f"fee:{row}", known_by != "nothing")
    assert whole_day().residual == {"usd": 0}
    assert found() == {}


def test_another_installations_charge_that_failed_later_is_not_our_cost(whole_day):
    theirs("ch_1", metadata={"instance": "another"}, payment_intent="")
    theirs("ch_1", -1500, fee_minor=0, net_minor=-1500, reporting_category="charge_failure", payment_intent="")
    whole_day()
    assert not JournalEntry.objects.filter(kind="fee").exists()


def test_the_proof_of_the_ledger_waits_for_the_days_before(whole_day):
    sold("ch_1")
    ours("ch_lost", at=NOON)  # no entry, and nobody has looked at its day yet
    sold("ch_2", at=NOON + DAYS)
    report = whole_day(DAY + DAYS)
    assert report.residual == {"usd": 0}
    assert proofs(DAY + DAYS)["clearing"].note == "1 days since 2026-01-10 are not reconciled"


# --- Against what payouts collected -----------------------------------------------------------------


def paid_out(source: str, amount: int, *nets: int, **fields: Any) -> Payout:
    """In both books, and the rows that the provider lists of it, if any."""
    payout = our_payout(source, amount, listed_at=NOON if nets else None, **fields)
    if nets:
        collected(payout, *nets)
    booked(source, -amount, "payout")
    return payout


def told_of_payouts() -> tuple[int | None, int, int | None]:
    proof = proofs()["payouts"]
    return proof.says_minor, proof.explained_minor, proof.residual_minor


def test_what_a_payout_does_not_collect_is_explained_by_its_item_alone(whole_day):
    """6.00 of which 5.90 are listed. A person accepts that; then 5.80 would be another thing."""
    paid_out("po_1", 600, 590)
    statements.recount(DAY.date(), DAY.date())
    assert told_of_payouts() == (590, 0, -10)  # before any run: nobody has said why
    assert whole_day().residual == {"usd": 0}
    assert found() == {"po_1": Kind.PAYOUT_DIFFERENCE}
    assert told_of_payouts() == (590, -10, 0)
    services.perform(discrepancy_id=the("po_1").pk, action="accept", by="test", note="Stripe looks for it")
    assert told_of_payouts() == (590, -10, 0)
    PayoutTransaction.objects.filter(source="ch_0").update(amount_minor=580, net_minor=580)
    assert told_of_payouts() == (580, 0, -20)
    whole_day()
    assert (the("po_1").state, told_of_payouts()) == ("open", (580, -20, 0))
    Discrepancy.objects.filter(source="po_1").update(
        state="resolved", closed_as="fixed", resolved_at=NOON, resolved_by="x"
    )
    assert told_of_payouts() == (580, 0, -20)


def test_payouts_that_nobody_lists_prove_nothing_but_those_made_by_hand_or_told_as_items(whole_day):
    paid_out("po_listed", 500, 500)
    paid_out("po_by_hand", 700, automatic=False)
    booked("po_unknown", -9999, "payout")
    whole_day()
    proof = proofs()["payouts"]
    assert (proof.says_minor, proof.explained_minor, proof.residual_minor) == (500, -9999, 0)
    assert proof.note == "1 of 3 payouts list their rows, 1 made by hand list none, 1 not listed are items"
    late = paid_out("po_late", 800)
    report = whole_day()
    proof = proofs()["payouts"]
    assert (proof.is_made, proof.note.partition(",")[0]) == (False, "1 of 4 payouts list their rows")
    assert not report.statement["usd"].is_proved
    collected(late, 800)
    Payout.objects.filter(pk=late.pk).update(listed_at=NOON)
    assert proofs()["payouts"].residual_minor == 0


def test_what_is_off_is_told_though_another_payout_is_not_listed(whole_day):
    paid_out("po_late", 800)
    paid_out("po_1", 600, 590)
    statements.recount(DAY.date(), DAY.date())
    assert told_of_payouts() == (590, 0, -10)


# --- Go-live ----------------------------------------------------------------------------------------


def test_the_books_begin_on_a_day_with_what_the_provider_held(whole_day):
    """100.00 from before, and a charge of that time that nobody of us knows: no break."""
    theirs("ch_old", at=NOON - DAYS)
    services.start_books(starts_on=DAY.date(), balances={"usd": 10_000, "eur": 0}, by="ann", note="Stripe's report")
    provider_holds(10_000 + 1426, sold("ch_1"))
    report = whole_day()
    assert (report.kinds, report.residual) == ({}, {"eur": 0, "usd": 0})
    usd = report.statement["usd"]
    assert (usd.opening_minor, usd.closing_minor) == (10_000, 11_426)
    assert [proof.residual_minor for proof in usd.proofs] == [0, 0, 0]
    assert usd.is_proved
    with pytest.raises(InvalidInput, match="before the start of the books"):
        whole_day(DAY - DAYS)
    with pytest.raises(InvalidInput, match="before the start of the books"):
        services.request_run(day=(DAY - DAYS).date(), by="ann")


def test_what_is_repaid_of_an_older_charge_is_looked_at_all_the_same(whole_day):
    theirs("ch_old", at=NOON - DAYS)
    services.start_books(starts_on=DAY.date(), balances={"usd": 1426}, by="ann", note="Stripe's report")
    theirs("re_1", -500, charge="ch_old")
    whole_day()
    assert found() == {"re_1": Kind.MISSING_IN_OUR_SYSTEM_REFUND}


def test_the_books_begin_once(transactional_db):
    day = date(2026, 1, 10)
    with pytest.raises(NoteMissing):
        services.start_books(starts_on=day, balances={}, by="ann", note=" ")
    with pytest.raises(InvalidInput):
        services.start_books(starts_on=day, balances={"usx": 1}, by="ann", note="x")
    with pytest.raises(InvalidInput):
        services.start_books(starts_on=date(2999, 1, 1), balances={}, by="ann", note="x")
    services.start_books(starts_on=day, balances={}, by="ann", note="x")
    with pytest.raises(BooksStarted):
        services.start_books(starts_on=day + DAYS, balances={"usd": 5}, by="ben", note="again")
    assert statements.starts_on() == day


def test_days_before_the_start_are_not_missed(transactional_db):
    ours("ch_1", at=datetime.now(UTC) - 30 * DAYS)
    today = datetime.now(UTC).date()
    services.start_books(starts_on=today - 2 * DAYS, balances={}, by="ann", note="x")
    assert selectors.days_without_a_run() == [today - 2 * DAYS, today - DAYS]


# --- The commands and the page ----------------------------------------------------------------------


@pytest.fixture
def day_of_two(whole_day):
    provider_holds(2852, sold("ch_1"), sold("ch_2"))
    whole_day()


def run_statement(*arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("statement", *arguments, stdout=out)
    return int(ended.value.code or 0), out.getvalue()


def test_the_command_prints_the_statement_and_how_it_was_proved(day_of_two):
    code, text = run_statement("--date", "2026-01-10")
    assert code == 0
    for told in ("2026-01-10 USD", "opening", "charge", "2 rows  fees $1.48", "closing", "$28.52", "residual $0.00"):
        assert told in text, told
    code, text = run_statement("--date", "2026-01-10", "--json")
    (one,) = json.loads(text)["statements"]
    assert (one["closing_minor"], one["residual_minor"], one["proved"]) == (2852, 0, True)


def test_the_command_fails_where_a_residual_is_left(day_of_two):
    provider_holds(9999, *ProviderTransaction.objects.values_list("id", flat=True))
    assert run_statement("--date", "2026-01-10")[0] == 1
    assert run_statement("--date", "2026-01-10", "--currency", "jpy")[0] == 0
    with pytest.raises(CommandError) as wrong:
        call_command("statement", "--from", "2026-01-10")
    assert wrong.value.returncode == 2


def test_the_command_fails_where_a_proof_could_not_be_made(whole_day):
    """Nobody asked the provider what it holds."""
    sold("ch_1")
    whole_day()
    code, text = run_statement("--date", "2026-01-10")
    assert (code, "not proved yet" in text) == (1, True)


def test_the_file_of_a_statement_closes_as_well(day_of_two):
    code, text = run_statement("--from", "2026-01-10", "--to", "2026-01-11", "--csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["day"], row["line"], row["balance"]) for row in rows if not row["line"].startswith("proof")] == [
        ("2026-01-10", "opening", "0.00"),
        ("2026-01-10", "charge", "28.52"),
        ("2026-01-10", "closing", "28.52"),
        ("2026-01-11", "opening", "28.52"),
        ("2026-01-11", "closing", "28.52"),
    ]


def test_start_books_by_command(transactional_db, capsys):
    call_command("start_books", "2026-01-10", "--balance", "usd=1,234.50", "--balance", "jpy=500", "--note", "report")
    assert "The books begin on 2026-01-10 with ¥500, $1,234.50." in capsys.readouterr().out
    opened = statements.start()
    assert opened is not None
    assert opened.balances == {"usd": 123450, "jpy": 500}
    for wrong in (["2026-01-11", "--note", "x"], ["2026-01-11", "--balance", "usd", "--note", "x"]):
        with pytest.raises(CommandError) as refused:
            call_command("start_books", *wrong)
        assert refused.value.returncode == 2


def test_the_page_shows_the_statement_and_gives_it_as_a_file(day_of_two, client, django_user_model):
    clerk = django_user_model.objects.create_superuser("root", "root@example.com", "x")
    client.force_login(clerk)
    address = reverse("admin:reconciliation_reconciliationrun_statement")
    page = client.get(address, {"since": "2026-01-10", "until": "2026-01-10"}).content.decode()
    for told in ("closes to zero", "$28.52", "Our clearing account", "Export as CSV"):
        assert told in page, told
    assert client.get(address).status_code == 200
    assert client.get(address, {"since": "x", "until": "y"}).status_code == 400
    answer = client.get(address, {"since": "2026-01-10", "until": "2026-01-10", "format": "csv"})
    assert "closing" in "".join(part.decode() for part in answer.streaming_content)
    client.logout()
    assert client.get(address).status_code == 302


# --- At the sandbox ---------------------------------------------------------------------------------


def test_the_statement_of_a_real_day_closes_to_zero(books):
    order, *_ = books.sell(3)
    books.refund(order, 500)
    report = books.reconcile()
    assert report.statement["usd"].is_proved, report.statement["usd"].proofs
    held = books.sandbox.control("GET", "books")["balance"]["usd"]
    assert report.statement["usd"].closing_minor == held


def test_what_differs_at_the_sandbox_is_explained_item_by_item(books):
    orders = books.sell(12)
    for order in orders[:4]:
        books.refund(order, 500)
    books.abandon()
    books.abandon()
    for kind in ("missing_in_stripe", "missing_in_our_system", "amount_mismatch", "status_mismatch", "duplicate_charge",
                 "currency_mismatch", "fee_variance", "missing_in_stripe_refund", "missing_in_our_system_refund",
                 "amount_mismatch_refund", "status_mismatch_refund"):  # fmt: skip
        books.plant(kind)
    report = books.reconcile()
    assert report.residual == {"eur": 0, "usd": 0}
    for statement in report.statement.values():
        assert statement.is_proved, statement.proofs
    assert Discrepancy.objects.filter(kind=Kind.STATEMENT_RESIDUAL).count() == 0


def test_a_dry_run_proves_the_same_and_posts_nothing(books):
    books.sell(2)
    report = books.reconcile(dry_run=True)
    assert report.kinds == {}
    assert report.residual == {"usd": 0}
    assert not DayTotal.objects.exists()
    assert matching.window(books.day)
