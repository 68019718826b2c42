"""How PostgreSQL goes about a day: in whole sets, whatever they hold.

Two days of 2,000 sales, of which one is looked at. Whatever is done for each row by itself is begun 2,000 times there; at a
million rows a day it is what takes the hours.
"""

import io
from datetime import datetime, timedelta

import pytest
from django.db import connection

from foundation.ids import uuid7
from payments import ledger
from payments import services as payments
from payments.models import Payment, Payout, Refund
from payments.types import BalanceTransaction, LearntFee
from reconciliation import services
from reconciliation.models import BankMatch, Discrepancy, Match, ProviderRead
from reconciliation.services.importing import upsert
from reconciliation.services.repairs import rows_given_back
from reconciliation.types import Kind, Rule
from tests.plans import Scan, scans
from tests.reconciliation.ledgers import DAY, MERCHANT, NOON, ours, theirs

pytestmark = pytest.mark.django_db(transaction=True)

SALES = 2_000  # a day; each is refunded in part
DIFFERENCES = 10
PAYOUTS = 30
# What is looked up one by one, in all kinds and for all rules, is what differs.
LOOKUPS = 10 * DIFFERENCES
DAYS = timedelta(days=1)


def row(source: str, amount: int, fee: int, at: datetime) -> BalanceTransaction:
    category = {"ch": "charge", "re": "refund", "po": "payout"}[source[:2]]
    return BalanceTransaction(
        id=f"txn_{source}",
        type=category,
        reporting_category=category,
        source=source,
        amount_minor=amount,
        fee_minor=fee,
        net_minor=amount - fee,
        currency="usd",
        status="available",
        created_at=at,
        available_at=at + 2 * DAYS,
        payment_intent=source.replace("ch_", "pi_"),
        charge="",
        metadata={},
        source_status="succeeded",
    )


def trade(name: str, at: datetime) -> None:
    """A day of sales and refunds in both books, our ledger included."""
    sold = Payment.objects.bulk_create(
        Payment(
            id=uuid7(),
            merchant_id=MERCHANT,
            reference=f"order-{name}-{number}",
            customer="cust-1",
            status="succeeded",
            amount_minor=1500,
            currency="usd",
            provider_reference=f"pi_{name}_{number}",
            charge_reference=f"ch_{name}_{number}",
            captured_minor=1500,
            captured_at=at,
            first_sent_at=at,
        )
        for number in range(SALES)
    )
    back = Refund.objects.bulk_create(
        Refund(
            id=uuid7(),
            merchant_id=MERCHANT,
            payment=payment,
            status="succeeded",
            amount_minor=500,
            currency="usd",
            reason="a test",
            requested_by="test",
            provider_reference=f"re_{name}_{number}",
            provider_created_at=at,
        )
        for number, payment in enumerate(sold)
    )
    clearing, receipts = ledger.clearing("usd"), ledger.unallocated_receipts("usd")
    captures = [ledger.Movement(f"capture:{one.number}", clearing, receipts, 1500, subject=one.number) for one in sold]
    refunds = [ledger.Movement(f"refund:{one.number}", receipts, clearing, 500, subject=one.number) for one in back]
    ledger.post_many(captures, kind="capture", by="test")
    ledger.post_many(refunds, kind="refund", by="test")
    payments.post_learnt_fees(
        [LearntFee(f"txn_{one.charge_reference}", "usd", 74, subject=one.number) for one in sold], by="test"
    )
    upsert([row(str(one.charge_reference), 1500, 74, at) for one in sold])
    upsert([row(str(one.provider_reference), -500, 0, at) for one in back])


@pytest.fixture
def two_days(reconcile):
    """One that was reconciled, and one that is to be, with a few differences; and many that were settled long ago."""
    for number in range(2):
        trade(f"d{number}", NOON + number * DAYS)
    ProviderRead.objects.create(since=DAY, until=DAY + 2 * DAYS, finished_at=DAY + 3 * DAYS)
    for number in range(DIFFERENCES):
        ours(f"ch_x{number}", at=NOON + DAYS)
        theirs(f"ch_y{number}", at=NOON + DAYS)
    settled(SALES)
    put_together(SALES)
    at_the_bank()
    analyze()
    reconcile(DAY)
    analyze()


def at_the_bank() -> None:
    """Payouts of some weeks, and a statement that holds them among many lines of others."""
    sent = Payout.objects.bulk_create(
        Payout(
            id=uuid7(),
            provider_reference=f"po_{number:06}",
            status="paid",
            amount_minor=10_000 + number,
            currency="usd",
            automatic=True,
            arrives_on=(NOON - number * DAYS).date(),
            provider_created_at=NOON,
        )
        for number in range(PAYOUTS)
    )
    bank, clearing = ledger.bank("usd"), ledger.clearing("usd")
    moved = [
        ledger.Movement(f"payout:{one.number}", bank, clearing, one.amount_minor, subject=one.number) for one in sent
    ]
    ledger.post_many(moved, kind="payout", by="test")
    upsert([row(one.provider_reference, -one.amount_minor, 0, NOON) for one in sent])
    lines = [f"P{one.provider_reference},A,{one.arrives_on},usd,{one.amount_minor},Stripe," for one in sent]
    lines += [
        f"L{number},A,{(NOON - number % 60 * DAYS).date()},usd,{number + 1},Jane Doe,thanks" for number in range(SALES)
    ]
    file = "\n".join(["reference,account,booked_on,currency,amount_minor,counterparty,text", *lines, ""])
    services.import_bank_statement(file=io.BytesIO(file.encode()), name="bank.csv", by="test")


def settled(count: int) -> None:
    """Differences of last year."""
    at = NOON - 200 * DAYS
    Discrepancy.objects.bulk_create(
        Discrepancy(
            fingerprint=f"{Kind.MISSING_IN_STRIPE}:ch_old{number}",
            kind=Kind.MISSING_IN_STRIPE,
            object_kind="charge",
            source=f"ch_old{number}",
            business_date=at.date(),
            ours_amount_minor=1500,
            ours_currency="usd",
            difference_minor=-1500,
            severity="high",
            state="resolved",
            closed_as="accepted",
            resolved_at=at,
            resolved_by="clara",
            first_seen_at=at,
        )
        for number in range(count)
    )


def put_together(count: int) -> None:
    """Matches of last year that are none by ids."""
    on = (NOON - 200 * DAYS).date()
    Match.objects.bulk_create(
        Match(
            object=f"charge:row_{number}",
            ours_id=uuid7(),
            ours_source=f"ch_then{number}",
            rule=Rule.AMOUNT_AND_DATE,
            currency="usd",
            theirs_minor=1500,
            theirs_on=on,
            ours_on=on,
        )
        for number in range(count)
    )


def analyze() -> None:
    """What autovacuum does within a minute, and tests do not wait for."""
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def repeated(found: list[Scan]) -> list[str]:
    """Scans that were begun again and again: an index for more than what differs, or a whole table of some size."""
    return sorted(
        {
            str(one)
            for one in found
            if one.loops > LOOKUPS or (one.how == "Seq Scan" and one.loops > 3 and one.rows > SALES)
        }
    )


def test_a_run_reads_whole_sets_and_looks_up_what_differs_alone(reconcile, two_days):
    for _ in range(2):  # the first stores what agrees, the second finds it stored
        with scans() as found:
            report = reconcile(DAY + DAYS)
        assert report.matched == 2 * SALES
        assert repeated(found) == []
        read = {one.table for one in found}
        assert {"payments_payment", "payments_refund", "payments_posting", "reconciliation_match"} <= read
        assert "reconciliation_bankline" in read
    assert report.statement["usd"].proofs[1].says_minor is not None  # it was proved, with all that this takes
    assert Discrepancy.objects.filter(state="open").count() == 2 * DIFFERENCES
    assert BankMatch.objects.count() == PAYOUTS


def test_what_went_back_of_a_charge_is_looked_up_by_it():
    upsert([row(f"ch_{number}", 1500, 74, NOON) for number in range(SALES)])
    analyze()
    assert "provider_refund_by_charge" in rows_given_back("ch_7").explain()
