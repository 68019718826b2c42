"""What `/metrics` tells of reconciliation."""

from datetime import UTC, datetime, timedelta

from foundation.database import database_now
from reconciliation.models import Discrepancy, Incident, ReconciliationRun
from tests.exposition import read
from tests.reconciliation.ledgers import DAY
from tests.reconciliation.test_statements import sold, was_read


def test_open_discrepancies_are_told_by_kind_and_fall_back_to_zero(books):
    books.sell(3)
    books.plant("amount_mismatch", 2)
    books.reconcile()
    seen = read()
    assert seen.value("everycent_discrepancies_open", kind="amount_mismatch") == 2
    assert seen.has("everycent_discrepancies_open", kind="missing_in_stripe")
    Discrepancy.objects.update(state="ignored", ignored_until=books.day)
    seen = read()
    assert seen.has("everycent_discrepancies_open", kind="amount_mismatch")
    assert seen.value("everycent_discrepancies_open", kind="amount_mismatch") == 0


def test_a_finished_day_without_a_completed_run_is_told(books):
    assert read().value("everycent_days_not_reconciled") == 0, "nothing was ever captured: nothing to reconcile"
    books.sell()
    seen = read()
    assert seen.value("everycent_days_not_reconciled") == 1
    assert not seen.has("everycent_reconciled_until_timestamp_seconds")
    books.reconcile()
    seen = read()
    midnight = datetime.combine(books.day + timedelta(days=1), datetime.min.time(), UTC)
    assert seen.value("everycent_days_not_reconciled") == 0
    assert seen.value("everycent_reconciled_until_timestamp_seconds") == midnight.timestamp()


def test_a_residual_is_told_until_its_day_is_run_again(books):
    books.sell()
    books.reconcile()
    seen = read()
    assert seen.has("everycent_statement_residual_minor", currency="usd")
    assert seen.value("everycent_statement_residual_minor", currency="usd") == 0
    # Opposite residuals of two days do not hide each other.
    for day, minor in ((books.day, -7), (books.day - timedelta(days=1), 7)):
        now = database_now()
        ReconciliationRun.objects.create(
            date=day,
            provisional=False,
            state="completed",
            by="test",
            residual={"usd": minor},
            lease_until=now,
            finished_at=now,
            duration_ms=1,
        )
    assert read().value("everycent_statement_residual_minor", currency="usd") == 14
    books.reconcile()
    assert read().value("everycent_statement_residual_minor", currency="usd") == 7


def test_open_incidents_are_told_by_cause_and_fall_back_to_zero(books):
    books.sell(4)
    books.plant("amount_mismatch", 3)
    books.reconcile()
    assert (
        read().value("everycent_incidents_open", cause="same_kind")
        == Incident.objects.filter(closed_at=None).count()
        > 0
    )
    Incident.objects.update(closed_at=database_now(), open_items=0)
    seen = read()
    assert seen.has("everycent_incidents_open", cause="same_kind")
    assert seen.value("everycent_incidents_open", cause="same_kind") == 0


def test_proofs_that_the_newest_day_could_not_make_are_counted(reconcile, transactional_db):
    assert not read().has("everycent_proofs_not_made", proof="balance")  # nothing was run yet
    sold("ch_1")
    reconcile()
    names = ("balance", "clearing", "payouts")
    assert [read().value("everycent_proofs_not_made", proof=name) for name in names] == [1, 1, 0]
    was_read(DAY, DAY)
    reconcile()
    assert [read().value("everycent_proofs_not_made", proof=name) for name in names] == [1, 0, 0]
