"""What comes or changes after its day was run: that day is run again, and once only."""

import json
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from threading import Thread

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from foundation.database import database_now
from payments.models import LateChange, Payment
from reconciliation import selectors, services, tasks
from reconciliation.errors import PeriodNotReady
from reconciliation.models import ChangedDay, ProviderTransaction, ReconciliationRun
from reconciliation.services import runs
from reconciliation.types import Kind
from tests.reconciliation import months
from tests.reconciliation.ledgers import DAY, NOON, both, found, our_dispute, our_payout, our_refund, ours, the, theirs
from tests.reconciliation.months import LAST, close, closed_january
from tests.reconciliation.test_statements import capture, proofs, sold, was_read

pytestmark = pytest.mark.django_db(transaction=True)
NEXT = DAY + timedelta(days=1)
AFTER = NEXT + timedelta(days=1)


def rows(source: str):
    return ProviderTransaction.objects.filter(source=source)


def runs_of(day) -> int:
    return ReconciliationRun.objects.filter(date=day.date(), state="completed").count()


def again(report) -> list:
    return [one.date for one in report.run_again]


@pytest.fixture
def no_import(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs, "import_day", lambda day, progress: 0)
    monkeypatch.setattr(runs, "_ask", lambda day: [])


# --- What counts ------------------------------------------------------------------------------------

CHANGES: dict[str, tuple[Callable[[], object], dict[str, str]]] = {
    "a row that comes late": (lambda: theirs("ch_late", 4000), {"ch_late": Kind.MISSING_IN_OUR_SYSTEM}),
    "another amount": (
        lambda: rows("ch_1").update(amount_minor=99_900, net_minor=99_826),
        {"ch_1": Kind.AMOUNT_MISMATCH},
    ),
    "another status": (lambda: rows("ch_1").update(source_status="failed"), {"ch_1": Kind.STATUS_MISMATCH}),
    "a row that is withdrawn": (lambda: rows("ch_1").update(withdrawn_at=NOON), {"ch_1": Kind.MISSING_IN_STRIPE}),
    "a row that moves here": (
        lambda: rows("ch_elsewhere").update(created_at=NOON),
        {"ch_elsewhere": Kind.MISSING_IN_OUR_SYSTEM},
    ),
    "a capture of ours": (lambda: ours("ch_mine", 4000), {"ch_mine": Kind.MISSING_IN_STRIPE}),
    "a refund of ours": (
        lambda: our_refund(Payment.objects.get(charge_reference="ch_1"), "re_1", 500),
        {"re_1": Kind.MISSING_IN_STRIPE_REFUND},
    ),
    "a correction of ours": (
        lambda: Payment.objects.filter(charge_reference="ch_1").update(corrected_minor=1),
        {"ch_1": Kind.AMOUNT_MISMATCH},
    ),
    "a dispute of ours": (
        lambda: our_dispute(Payment.objects.get(charge_reference="ch_1"), "dp_1", 500),
        {"dp_1": Kind.DISPUTE_MISSING},
    ),
    "a payout of ours": (lambda: our_payout("po_1", 500), {"po_1": Kind.PAYOUT_DIFFERENCE}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_after_the_run_of_its_day_is_found_by_the_next_run(reconcile, what):
    change, expected = CHANGES[what]
    both("ch_1")
    theirs("ch_elsewhere", at=NOON + timedelta(days=30))
    reconcile()
    both("ch_2", at=NOON + timedelta(days=1))
    change()
    report = reconcile(NEXT)
    assert found() == expected
    assert again(report) == [DAY.date()]
    assert (runs_of(DAY), runs_of(NEXT)) == (2, 1)


def test_a_day_is_run_again_once_for_a_change_and_not_at_all_for_none(reconcile):
    payment = both("ch_1")
    row = rows("ch_1").get()
    reconcile()
    theirs("ch_late")
    assert again(reconcile(NEXT)) == [DAY.date()]
    assert again(reconcile(NEXT)) == []
    # Read again; available since; a refund counts on its payment: nothing of it is compared.
    rows("ch_1").update(status="available", seen_at=database_now(), sha256=b"1" * 32, available_at=NOON)
    rows("ch_1").update(amount_minor=row.amount_minor)
    Payment.objects.filter(pk=payment.pk).update(refunds_committed_minor=5, checks=3)
    assert again(reconcile(NEXT)) == []
    assert (runs_of(DAY), runs_of(NEXT)) == (2, 3)
    assert not ChangedDay.objects.filter(day=DAY.date()).exists()


def test_what_is_read_for_a_day_is_what_its_first_run_sees(books):
    """The night's own reading makes no day due again; a row that it brings of the day before does."""
    books.sell(2)
    books.reconcile()
    later = books.day + timedelta(days=1)
    assert again(services.reconcile_day(day=later, by="test")) == []  # reads the same rows again
    ProviderTransaction.objects.filter(pk=ProviderTransaction.objects.earliest("pk").pk).delete()  # as if it came late
    report = services.reconcile_day(day=later, by="test")
    assert again(report) == [books.day]
    assert selectors.days_changed() == []


def test_what_changes_while_its_day_is_run_is_not_forgotten(reconcile, monkeypatch):
    """The run sees one moment: what is committed after it, and before the run ends, is for another run."""
    both("ch_1")
    look = runs._look_at_bank

    def meanwhile(*given, **options):
        with monkeypatch.context() as once:
            once.setattr(runs, "_look_at_bank", look)
            _in_another_connection(lambda: theirs("ch_late"))
        look(*given, **options)

    monkeypatch.setattr(runs, "_look_at_bank", meanwhile)
    reconcile()
    monkeypatch.setattr(runs, "_look_at_bank", look)
    assert found() == {}
    assert selectors.days_changed() == [DAY.date()]
    assert again(reconcile(NEXT)) == [DAY.date()]
    assert found() == {"ch_late": Kind.MISSING_IN_OUR_SYSTEM}


def _in_another_connection(work) -> None:
    def do() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = Thread(target=do)
    thread.start()
    thread.join(20)


def test_a_run_that_failed_or_was_provisional_forgets_nothing(reconcile, monkeypatch):
    both("ch_1")
    reconcile()
    theirs("ch_late")
    with monkeypatch.context() as broken:
        broken.setattr(runs, "open_periods", lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            reconcile()
    reconcile(now=NOON)  # as of a moment at which the day was not over
    assert selectors.days_changed() == [DAY.date()]


def test_a_sale_of_today_notes_nothing_and_days_before_the_start_of_the_books_are_left(reconcile, transactional_db):
    ours("ch_1", at=database_now() + timedelta(days=1))
    assert not LateChange.objects.exists()
    both("ch_2")
    reconcile()
    services.start_books(starts_on=NEXT.date(), balances={}, by="test", note="go-live")
    theirs("ch_old")
    assert selectors.days_changed() == []


# --- Who runs it again ------------------------------------------------------------------------------


def test_the_hourly_job_runs_every_day_again_of_which_something_changed_however_old(no_import):
    today = database_now().replace(hour=12)
    old = today - timedelta(days=300)
    services.start_books(starts_on=old.date(), balances={}, by="test", note="go-live")
    days = [(old + timedelta(days=back)).date() for back in range((today - old).days)]
    months.as_reconciled(days[0], days[-1])
    tasks.nightly()
    assert not ReconciliationRun.objects.exclude(by="test").exists()
    ours("ch_1", at=old)
    theirs("ch_2", at=old + timedelta(days=1))
    tasks.nightly()
    tasks.nightly()
    again = ReconciliationRun.objects.exclude(by="test").order_by("id").values_list("date", flat=True)
    assert list(again) == days[:2]
    assert found() == {"ch_1": Kind.MISSING_IN_STRIPE, "ch_2": Kind.MISSING_IN_OUR_SYSTEM}


def test_asking_what_changed_costs_two_small_reads(reconcile):
    both("ch_1")
    reconcile()
    with CaptureQueriesContext(connection) as captured:
        assert selectors.days_changed() == []
    assert len(captured) == 2


def test_a_changed_day_that_cannot_be_run_keeps_nobody_from_his_run(reconcile, monkeypatch):
    both("ch_1")
    reconcile()
    theirs("ch_late")
    look = runs._match_and_store

    def fails(run, *given, **options):
        assert run.date != DAY.date()
        return look(run, *given, **options)

    with monkeypatch.context() as broken:
        broken.setattr(runs, "_match_and_store", fails)
        assert again(reconcile(NEXT)) == []
    assert (runs_of(DAY), runs_of(NEXT)) == (1, 1)
    assert again(reconcile(NEXT)) == [DAY.date()]


def test_the_command_tells_what_it_ran_again_and_its_exit_code_counts_that(no_import):
    both("ch_1")
    run = lambda *given: _command("--from", str(NEXT.date()), "--to", str(NEXT.date()), *given)  # noqa: E731
    services.reconcile_day(day=DAY.date(), by="test")
    assert [run()[0], run()[0]] == [0, 0]
    theirs("ch_late")
    code, text = run("--json")
    assert code == 1
    assert [one["date"] for one in json.loads(text)["runs"]] == [str(DAY.date()), str(NEXT.date())]
    theirs("ch_later")
    assert f"{DAY.date()} changed since it was run, and was run again:" in run()[1]


def _command(*given: str) -> tuple[int, str]:
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("reconcile", *given, stdout=out)
    return int(ended.value.code or 0), out.getvalue()


# --- Statements and months --------------------------------------------------------------------------


def test_a_late_row_is_an_item_and_no_residual(reconcile):
    was_read(DAY, NEXT)
    sold("ch_1")
    reconcile()
    theirs("ch_late", 4000)
    sold("ch_2", at=NOON + timedelta(days=1))
    report = reconcile(NEXT)
    assert found() == {"ch_late": Kind.MISSING_IN_OUR_SYSTEM}
    assert report.residual == {"usd": 0}
    assert proofs(NEXT)["clearing"].residual_minor == 0
    stored = ReconciliationRun.objects.filter(date=DAY.date()).latest("id")
    assert stored.theirs_count == 2
    assert stored.statement["usd"]["closing_minor"] == 1426 + 3926


def test_two_late_differences_that_weigh_each_other_out_are_two_items(reconcile):
    was_read(DAY, NEXT)
    sold("ch_1")
    reconcile()
    theirs("ch_late", 4000, fee_minor=0, net_minor=4000)
    capture(ours("ch_mine", 4000))
    report = reconcile(NEXT)
    assert report.residual == {"usd": 0}
    assert found() == {"ch_late": Kind.MISSING_IN_OUR_SYSTEM, "ch_mine": Kind.MISSING_IN_STRIPE}


def test_a_residual_that_the_change_explains_is_told_no_longer(reconcile):
    """Of the days between the one that changed and the one that is run; the newest of them is proved again with it, without a run."""
    was_read(DAY, AFTER + timedelta(days=1))
    sold("ch_1")
    reconcile()
    sold("ch_2", at=NOON + timedelta(days=1))
    payment = capture(ours("ch_mine", 4000, at=NOON))
    LateChange.objects.all().delete()  # as if nobody had noted it
    assert reconcile(NEXT).residual == {"usd": -4000}
    assert reconcile(AFTER).residual == {"usd": -4000}
    Payment.objects.filter(pk=payment.pk).update(corrected_minor=1)
    Payment.objects.filter(pk=payment.pk).update(corrected_minor=0)
    report = reconcile(AFTER + timedelta(days=1))
    assert again(report) == [DAY.date(), NEXT.date()]
    assert found() == {"ch_mine": Kind.MISSING_IN_STRIPE}
    for day in (NEXT, AFTER):
        assert ReconciliationRun.objects.filter(date=day.date()).latest("id").residual == {"usd": 0}
    assert runs_of(AFTER) == 1


def test_what_changes_of_a_closed_month_falls_into_the_next_one(reconcile):
    closed_january(reconcile)
    theirs("ch_late", 4000, at=months.NOON)
    report = reconcile(LAST + timedelta(days=1))
    assert again(report) == [LAST.date()]
    assert the("ch_late").business_date == LAST.date()
    assert the("ch_late").period == months.FEBRUARY


def test_a_month_is_not_closed_over_a_day_that_changed_since_it_was_run(reconcile):
    both("ch_1", at=months.NOON)
    reconcile(LAST)
    both("ch_2", at=months.NOON)
    with pytest.raises(PeriodNotReady, match="changed since they were reconciled: 1, 31 Jan 2026"):
        close()
    reconcile(LAST)
    close()
