"""Runs: refused while one is under way, taken over after a crash, repeated without a trace; importing; catching up."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import ProtectedError

from foundation.database import database_now
from foundation.errors import InvalidInput
from payments import selectors as payments
from payments.errors import ProviderUnavailable
from payments.models import Payment
from payments.types import Booked
from reconciliation import selectors, services, tasks
from reconciliation.errors import RunInProgress, RunTakenOver
from reconciliation.locks import one_writer
from reconciliation.models import Discrepancy, ProviderTransaction, ReconciliationRun
from reconciliation.services import importing, runs
from reconciliation.types import Kind, KindCounts
from tests.reconciliation.ledgers import DAY, ours, post_fee, theirs
from tests.reconciliation.test_statements import capture, was_read

ROOT = Path(__file__).resolve().parent.parent.parent


def begin(day=DAY) -> ReconciliationRun:
    return runs._begin(day.date(), provisional=False, by="another")


@pytest.fixture
def no_import(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs, "import_day", lambda day, progress: 0)
    monkeypatch.setattr(runs, "_ask", lambda day: [])


def run(day=DAY):
    return services.reconcile_day(day=day.date(), by="test")


# --- One at a time ----------------------------------------------------------------------------------


@pytest.mark.guard(15)
@pytest.mark.django_db(transaction=True)
def test_a_second_run_of_a_date_is_refused_while_the_first_is_under_way(no_import):
    first = begin()
    with pytest.raises(RunInProgress, match="2026-01-10"):
        run()
    run(DAY + timedelta(days=1))  # another date is another matter
    assert ReconciliationRun.objects.get(pk=first.pk).state == "running"


@pytest.mark.guard(15)
@pytest.mark.django_db(transaction=True)
def test_of_two_runs_that_start_at_once_one_is_refused(monkeypatch, no_import):
    both_begin, outcomes = threading.Barrier(2), []
    first_is_in, let_it_end = threading.Event(), threading.Event()

    def importing_slowly(day, progress):
        first_is_in.set()
        let_it_end.wait(10)
        return 0

    monkeypatch.setattr(runs, "import_day", importing_slowly)

    def start() -> None:
        both_begin.wait()
        try:
            run()
            outcomes.append("ran")
        except RunInProgress:
            outcomes.append("refused")
            let_it_end.set()
        finally:
            connection.close()

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert first_is_in.is_set()
    assert sorted(outcomes) == ["ran", "refused"]
    assert ReconciliationRun.objects.get().state == "completed"


@pytest.mark.django_db(transaction=True)
def test_a_run_whose_process_died_is_taken_over_and_its_zombie_stores_nothing(monkeypatch, no_import):
    ours("ch_1")
    dead = begin()
    ReconciliationRun.objects.filter(pk=dead.pk).update(lease_until=database_now())
    run()
    dead.refresh_from_db()
    assert (dead.state, dead.error) == ("failed", "Its process was silent for too long; taken over.")
    assert Discrepancy.objects.count() == 1
    ours("ch_2")
    with pytest.raises(RunTakenOver):
        runs._compare(dead, 0, 0.0, asked={})
    with pytest.raises(RunTakenOver):
        runs._Renewal(dead, lambda rows: None)(1)
    assert Discrepancy.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_failed_run_says_why_and_the_next_one_may_start(monkeypatch, no_import):
    monkeypatch.setattr(runs, "import_day", lambda day, progress: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        run()
    failed = ReconciliationRun.objects.get()
    assert (failed.state, failed.error) == ("failed", "ZeroDivisionError: integer division or modulo by zero")
    monkeypatch.setattr(runs, "import_day", lambda day, progress: 0)
    assert run().run_id


@pytest.mark.django_db(transaction=True)
def test_a_day_that_has_not_begun_is_refused_and_one_that_is_not_over_is_provisional(no_import):
    today = database_now()
    with pytest.raises(InvalidInput):
        run(today + timedelta(days=1))
    assert run(today).provisional
    assert not run(today - timedelta(days=1)).provisional


def test_a_run_that_is_killed_half_way_has_found_nothing_and_is_repeated(books):
    books.sell(3)
    books.plant(Kind.MISSING_IN_STRIPE)
    books.plant(Kind.MISSING_IN_OUR_SYSTEM)
    command = [sys.executable, "manage.py", "reconcile", "--date", str(books.day)]
    environment = {**os.environ, "DATABASE_URL": _test_database_url()}
    with one_writer(wait_s=1):  # it imports, and then has to wait for us before it may store
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        _until(lambda: _waits_for_the_writer_lock() or process.poll() is not None)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert ProviderTransaction.objects.count() == 3
    assert Discrepancy.objects.count() == 0
    with pytest.raises(RunInProgress):
        books.reconcile()
    ReconciliationRun.objects.update(lease_until=database_now())
    report = books.reconcile()
    assert {kind: counts.new for kind, counts in report.kinds.items()} == {
        Kind.MISSING_IN_STRIPE: 1,
        Kind.MISSING_IN_OUR_SYSTEM: 1,
    }
    assert list(ReconciliationRun.objects.order_by("id").values_list("state", flat=True)) == ["failed", "completed"]


def _test_database_url() -> str:
    head, _, _ = os.environ["DATABASE_URL"].rpartition("/")
    return f"{head}/{connection.settings_dict['NAME']}"


def _waits_for_the_writer_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)")
        return bool(cursor.fetchone()[0])


def _until(happened, timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


# --- Importing --------------------------------------------------------------------------------------


@pytest.mark.guard(14)
def test_importing_is_repeatable_reports_progress_and_reads_the_days_before(books):
    books.sell(3)
    seen: list[int] = []
    later = books.day + timedelta(days=1)
    assert importing.import_day(later, progress=seen.append) == 3
    assert seen == [3]
    rows = list(ProviderTransaction.objects.order_by("id").values_list("id", "sha256", "imported_at"))
    assert importing.import_day(later, progress=seen.append) == 3
    assert list(ProviderTransaction.objects.order_by("id").values_list("id", "sha256", "imported_at")) == rows
    assert importing.import_day(books.day + timedelta(days=4), progress=seen.append) == 0


def test_importing_works_in_batches(books, settings):
    settings.RECONCILE_IMPORT_BATCH = 2
    books.sell(5)
    seen: list[int] = []
    importing.import_day(books.day, progress=seen.append)
    assert seen == [2, 4, 5]


def test_a_page_that_fails_is_asked_for_again(books, monkeypatch):
    monkeypatch.setattr("payments.providers.stripe.time.sleep", lambda seconds: None)
    books.sell()
    fault = {"match": "GET /v1/balance_transactions", "kind": "rate_limit", "times": 3}
    books.sandbox.control("POST", "faults", fault)
    assert importing.import_day(books.day, progress=lambda rows: None) == 1
    books.sandbox.control("POST", "faults", {**fault, "times": 4})
    with pytest.raises(ProviderUnavailable):
        books.reconcile()
    assert ReconciliationRun.objects.get().state == "failed"


@pytest.mark.parametrize("settle_after_s", [3600])
def test_a_capture_that_the_provider_has_yet_to_book_is_timing(books):
    books.sell()
    report = books.reconcile()
    assert report.theirs_count == 0
    assert report.kinds == {Kind.MISSING_IN_STRIPE: KindCounts(timing=1)}
    assert Discrepancy.objects.get().evidence["timing"] == "not booked by the provider yet"
    services.reconcile_day(day=books.day + timedelta(days=1), by="test")  # a run of another day asks about it, too
    assert Discrepancy.objects.get().state == "timing"


def test_what_is_booked_or_unknown_at_the_provider_is_no_evidence(books):
    order, *_ = books.sell()
    assert payments.ask_whether_booked(order["payments"][0]["provider_reference"]) == Booked.YES
    assert payments.ask_whether_booked(books.abandon()["payments"][0]["provider_reference"]) == Booked.NEVER
    assert payments.ask_whether_booked("pi_unknown") == Booked.NEVER


@pytest.mark.parametrize("settle_after_s", [3600])
def test_what_waits_on_the_providers_word_opens_when_it_takes_that_back(books, settings):
    settings.RECONCILE_UNBOOKED_AFTER_S = 48 * 3600
    books.sell(2)
    books.reconcile()
    lost, kept = Payment.objects.order_by("pk")
    Payment.objects.filter(pk=lost.pk).update(provider_reference="pi_unknown")
    settings.RECONCILE_UNBOOKED_LOOKUPS = 0
    books.reconcile()  # nobody is asked
    assert set(Discrepancy.objects.values_list("state", flat=True)) == {"timing"}
    settings.RECONCILE_UNBOOKED_LOOKUPS = 100
    books.reconcile()
    states = dict(Discrepancy.objects.values_list("payment_id", "state"))
    assert states == {lost.pk: "open", kept.pk: "timing"}


# --- Every day, once --------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_days_without_a_run_are_caught_up_from_the_first_capture_on(no_import):
    today = database_now().date()
    assert selectors.days_without_a_run() == []
    ours("ch_1", at=database_now() - timedelta(days=3))
    missing = [today - timedelta(days=back) for back in (3, 2, 1)]
    assert selectors.days_without_a_run() == missing
    services.reconcile_day(day=missing[1], by="by hand")
    ReconciliationRun.objects.create(
        date=missing[0], provisional=True, state="completed", by="by hand", lease_until=database_now(),
        finished_at=database_now(), duration_ms=1,
    )  # fmt: skip  # made while that day was not over
    begin(database_now() - timedelta(days=1))  # somebody is at it
    tasks.nightly()
    assert selectors.days_without_a_run() == [missing[2]]
    assert list(ReconciliationRun.objects.filter(by="nightly").values_list("date", flat=True)) == [missing[0]]


@pytest.mark.django_db(transaction=True)
def test_an_outage_longer_than_one_job_can_do_is_caught_up_by_the_next_ones(no_import, settings):
    settings.RECONCILE_CATCH_UP_DAYS = 2
    ours("ch_1", at=database_now() - timedelta(days=5))
    for done in (2, 4, 5, 5):
        tasks.nightly()
        assert ReconciliationRun.objects.count() == done
    assert selectors.days_without_a_run() == []


@pytest.mark.django_db(transaction=True)
def test_days_are_missed_from_the_start_of_the_books_on_though_we_know_of_no_capture(no_import):
    """All our news may have been lost: that is when a run is needed most."""
    today = database_now().date()
    services.start_books(starts_on=today - timedelta(days=5), balances={}, by="test", note="go-live")
    days = [today - timedelta(days=back) for back in range(5, 0, -1)]
    assert selectors.days_without_a_run() == days
    ours("ch_1", at=database_now() - timedelta(days=2))
    assert selectors.days_without_a_run() == days
    theirs("ch_2", at=database_now() - timedelta(days=4))
    tasks.nightly()
    assert selectors.days_without_a_run() == []
    assert Discrepancy.objects.get(source="ch_2").kind == Kind.MISSING_IN_OUR_SYSTEM


@pytest.mark.django_db(transaction=True)
def test_a_history_of_years_is_not_missed_day_by_day(no_import, settings):
    settings.RECONCILE_HISTORY_DAYS = 3
    ours("ch_1", at=database_now() - timedelta(days=900))
    assert len(selectors.days_without_a_run()) == 3


@pytest.mark.django_db(transaction=True)
def test_a_day_that_cannot_be_run_does_not_keep_the_others_from_it(monkeypatch, no_import):
    today = database_now().date()
    ours("ch_1", at=database_now() - timedelta(days=3))
    broken = today - timedelta(days=3)

    def importing(day, progress):
        assert day != broken
        return 0

    monkeypatch.setattr(runs, "import_day", importing)
    with pytest.raises(AssertionError):
        tasks.nightly()
    assert selectors.days_without_a_run() == [broken]


@pytest.mark.django_db(transaction=True)
def test_days_that_always_fail_do_not_starve_the_others_and_are_tried_again(monkeypatch, no_import, settings):
    settings.RECONCILE_CATCH_UP_DAYS = 3
    today = database_now().date()
    days = [today - timedelta(days=back) for back in range(8, 0, -1)]
    ours("ch_1", at=database_now() - timedelta(days=8))
    tried = []

    def importing(day, progress):
        tried.append(day)
        assert day > days[4]  # the first five cannot be run
        return 0

    monkeypatch.setattr(runs, "import_day", importing)
    for _ in range(4):
        with pytest.raises(AssertionError):
            tasks.nightly()
    hours = [tried[at : at + 3] for at in range(0, len(tried), 3)]
    assert hours == [days[:3], days[3:6], [days[0], *days[6:]], days[1:4]]
    assert selectors.days_without_a_run() == days[:5]


@pytest.mark.django_db(transaction=True)
def test_a_provider_that_is_away_is_not_asked_for_each_day(monkeypatch, no_import):
    asked = []

    def away(day, progress):
        asked.append(day)
        raise ProviderUnavailable

    ours("ch_1", at=database_now() - timedelta(days=5))
    monkeypatch.setattr(runs, "import_day", away)
    with pytest.raises(ProviderUnavailable):
        tasks.nightly()
    assert len(asked) == 1


@pytest.mark.django_db(transaction=True)
def test_the_hourly_job_looks_again_at_what_was_timing_once_its_time_is_up(monkeypatch, no_import):
    """Yesterday's run at midnight, and nobody runs yesterday again by hand."""
    midnight = database_now().replace(hour=0, minute=0, second=0, microsecond=0)
    yesterday = (midnight - timedelta(days=1)).date()
    ours("ch_heals", at=midnight - timedelta(minutes=5))
    ours("ch_breaks", at=midnight - timedelta(minutes=5))
    with monkeypatch.context() as just_after:
        just_after.setattr(runs, "database_now", lambda: midnight + timedelta(minutes=10))
        services.reconcile_day(day=yesterday, by="by hand")
    assert set(Discrepancy.objects.values_list("state", flat=True)) == {"timing"}
    Discrepancy.objects.update(becomes_break_at=database_now() + timedelta(hours=1))
    tasks.nightly()
    assert ReconciliationRun.objects.count() == 1  # its time is not up
    theirs("ch_heals", at=midnight + timedelta(minutes=1))
    Discrepancy.objects.update(becomes_break_at=database_now())
    tasks.nightly()
    assert dict(Discrepancy.objects.values_list("source", "state")) == {"ch_heals": "resolved", "ch_breaks": "open"}
    assert Discrepancy.objects.get(source="ch_heals").closed_as == "auto"
    tasks.nightly()
    assert ReconciliationRun.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_a_run_that_found_something_cannot_be_deleted(no_import):
    ours("ch_1")
    run()
    with pytest.raises(ProtectedError):
        ReconciliationRun.objects.get().delete()


# --- The command ------------------------------------------------------------------------------------


def reconcile(*arguments: str) -> tuple[int, str]:
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("reconcile", *arguments, stdout=out)
    return int(ended.value.code or 0), out.getvalue()


@pytest.mark.django_db(transaction=True)
def test_the_command_says_by_its_exit_code_whether_something_is_open(no_import):
    assert reconcile("--date", "2026-01-10")[0] == 0
    ours("ch_1")
    code, text = reconcile("--date", "2026-01-10")
    assert code == 1
    assert "missing_in_stripe: new 1  persisting 0  resolved 0  timing 0" in text
    assert reconcile("--date", "2026-01-10")[0] == 1
    assert reconcile("--date", "2026-01-09")[0] == 0
    Discrepancy.objects.update(state="resolved", closed_as="accepted", resolved_at=database_now(), resolved_by="x")
    assert reconcile("--date", "2026-01-10")[0] == 0


@pytest.mark.django_db(transaction=True)
def test_the_command_ends_with_1_where_a_residual_is_left_though_no_item_is_new(no_import):
    """15.00 never got into our ledger; a newer day was run before. A dry run, a run, and a person's ignoring of the item say the same."""
    was_read(DAY, DAY + timedelta(days=1))
    post_fee(theirs("ch_1"), 74, ours("ch_1"))
    assert reconcile("--date", "2026-01-11")[0] == 0
    for options in (["--dry-run"], [], []):
        code, text = reconcile("--date", "2026-01-10", *options)
        assert code == 1
        assert "residual that nothing accounts for: $15.00" in text
        assert "statement_residual" in text
    until = database_now().date() + timedelta(days=30)
    Discrepancy.objects.update(state="ignored", ignored_until=until)
    code, text = reconcile("--date", "2026-01-10", "--json")
    (run,) = json.loads(text)["runs"]
    assert (code, run["residual"]) == (1, {"usd": 1500})


@pytest.mark.django_db(transaction=True)
def test_the_command_prints_one_json_document(no_import):
    ours("ch_1")
    theirs("ch_2", 800)
    code, text = reconcile("--from", "2026-01-09", "--to", "2026-01-10", "--json")
    assert code == 1
    (empty, full) = json.loads(text)["runs"]
    assert full.pop("duration_s") >= 0
    assert empty["ours"] == {"count": 0, "totals": {}}
    once = {"new": 1, "persisting": 0, "resolved": 0, "timing": 0}
    assert full == {
        "date": "2026-01-10",
        "provisional": False,
        "ours": {"count": 1, "totals": {"usd": 1500}},
        "theirs": {"count": 1, "totals": {"usd": 800}},
        "matched": 0,
        "discrepancies": {"missing_in_stripe": once, "missing_in_our_system": once},
        "residual": {"usd": 0},
        "not_proved": {
            "usd": {
                "balance": "not every row since 2026-01-10 was read",
                "clearing": "not every row since 2026-01-10 was read",
            }
        },
    }


@pytest.mark.django_db(transaction=True)
def test_the_command_says_which_proofs_were_not_made_and_why(no_import):
    """That nothing is left over is not that all was proved. Nobody read a balance, and a day before was not run."""
    was_read(DAY, DAY + timedelta(days=1))
    for currency in ("usd", "eur"):
        for offset in range(2):
            at = DAY + timedelta(days=offset, hours=12)
            payment = capture(ours(f"ch_{currency}{offset}", currency=currency, at=at))
            post_fee(theirs(f"ch_{currency}{offset}", currency=currency, at=at), 74, payment, currency)
    code, text = reconcile("--date", "2026-01-11")
    assert (code, text.splitlines()[3:]) == (
        0,
        [
            "  not proved: Stripe's balance in EUR, USD (no balance was read yet that the rows we have reach up to)",
            "  not proved: Our clearing account in EUR, USD (1 days since 2026-01-10 are not reconciled)",
            "  no discrepancies",
        ],
    )
    _, text = reconcile("--date", "2026-01-10", "--json")
    (run,) = json.loads(text)["runs"]
    missing = {"balance": "no balance was read yet that the rows we have reach up to"}
    assert (run["residual"], run["not_proved"]) == ({"eur": 0, "usd": 0}, {"eur": missing, "usd": missing})


@pytest.mark.django_db(transaction=True)
def test_a_dry_run_tells_the_same_and_stores_nothing(no_import):
    ours("ch_1")
    code, text = reconcile("--date", "2026-01-10", "--dry-run")
    assert code == 1
    assert "missing_in_stripe: new 1" in text
    assert not ReconciliationRun.objects.exists()
    assert not Discrepancy.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_without_a_date_it_is_yesterday(no_import):
    reconcile()
    assert ReconciliationRun.objects.get().date == database_now().date() - timedelta(days=1)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--statement", "x.csv"], "x.csv: No such file"),
        (["--what-if", "x"], "x cannot be read: No such file"),
        (["--from", "2026-01-01"], "--from and --to together"),
        (["--from", "2026-01-02", "--to", "2026-01-01"], "must not be after"),
        (["--date", "2026-01-02", "--to", "2026-01-01"], "--date alone"),
        (["--date", "2999-01-01"], "has not begun"),
        (["--date", "yesterday"], "write it as 2026-11-19"),
    ],
)
def test_what_cannot_be_run_ends_with_2_and_one_line(no_import, arguments, reason):
    with pytest.raises(CommandError, match=reason) as refused:
        call_command("reconcile", *arguments)
    assert refused.value.returncode == 2 or "write it as" in reason


@pytest.mark.django_db(transaction=True)
def test_a_provider_that_does_not_answer_ends_with_2(monkeypatch, transactional_db):
    monkeypatch.setattr("payments.providers.stripe.time.sleep", lambda seconds: None)
    with pytest.raises(CommandError, match="Could not run: The payment provider does not give its books") as refused:
        call_command("reconcile", "--date", "2026-01-10")
    assert refused.value.returncode == 2
    assert ReconciliationRun.objects.get().state == "failed"
