"""A large day in parts: whoever looks at which, the answer is the same; helpers may die, come late, or not at all."""

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction

from foundation.ids import uuid7
from reconciliation import books, locks, services
from reconciliation.locks import helping, one_run, one_writer
from reconciliation.matching import agreement
from reconciliation.models import Discrepancy, Match, ReconciliationRun, RunPart, RunPartLeft, Tolerance
from reconciliation.services import findings, sharing
from reconciliation.types import Kind
from tests.reconciliation.ledgers import DAY, MERCHANT, NOON, both, found, our_refund, ours, post_fee, theirs

pytestmark = pytest.mark.usefixtures("transactional_db", "valkey")

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def asked(settings, monkeypatch) -> list[tuple[str, str, str, list[str]]]:
    """Parts of two rows each; what helpers are asked for, and nobody hears of it."""
    settings.RECONCILE_PART_ROWS = 2
    asked: list[tuple[str, str, str, list[str]]] = []
    monkeypatch.setattr("config.celery.app.send_task", lambda name, args, **_: asked.append(tuple(args)))
    return asked


def books_of_a_day() -> None:
    """Of everything something: what agrees, what differs, what lies on two days, what a rule or nobody can put together."""
    for number in range(12):
        payment = both(f"ch_same_{number}", 1000 + number)
    our_refund(payment, "re_same", 100)
    theirs("re_same", -100)
    ours("ch_lost", 1100)
    theirs("ch_stray", 1200, metadata={"order": "ord_x", "instance": "everycent"})
    ours("ch_more", 1300)
    theirs("ch_more", 1350)
    ours("ch_dear", 1400)
    post_fee(theirs("ch_dear", 1400), 80)
    ours("ch_twice", 900)
    theirs("ch_twice", 1000)
    theirs("ch_twice", -100, reporting_category="partial_capture_reversal")
    ours("ch_late", 700, at=DAY + timedelta(hours=1))
    theirs("ch_late", 700, at=DAY - timedelta(hours=1))
    ours("ch_named", 600)
    theirs("ch_other", 600, metadata={"payment": ours("ch_its", 650).number})


def run() -> Any:
    return services.reconcile_day(day=DAY.date(), by="test", from_files=True)


def told(report: Any) -> dict[str, Any]:
    """All that a run leaves, but for who saw it when."""
    matches = Match.objects.order_by("object").values_list(
        "object", "ours_id", "rule", "theirs_minor", "theirs_on", "ours_on"
    )
    return {
        "found": found(),
        "matches": list(matches),
        "matched": report.matched,
        "kinds": report.kinds,
        "totals": (report.ours_count, report.ours_totals, report.theirs_count, report.theirs_totals),
        "residual": report.residual,
    }


@pytest.fixture
def alone(settings) -> dict[str, Any]:
    """What one run finds that looks at the whole day at once; then it is forgotten."""
    books_of_a_day()
    whole = told(run())
    assert whole["found"]["ch_dear"] == Kind.FEE_VARIANCE
    assert whole["residual"] == {"usd": 0}
    assert len(whole["matches"]) >= 15
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute("TRUNCATE reconciliation_match, reconciliation_discrepancy, reconciliation_incident CASCADE")
        cursor.execute("SET session_replication_role = origin")
    return whole


def test_a_run_without_helpers_finds_the_same_in_parts(alone, asked):
    assert told(run()) == alone
    assert len(asked) == 3  # no more, however large the day


def test_where_to_cut_is_told_by_a_sample_of_a_large_day(alone, asked, monkeypatch):
    monkeypatch.setattr(agreement, "_SAMPLED", 4)
    assert told(run()) == alone
    cuts = asked[0][3]
    assert cuts == sorted(cuts)
    assert len(cuts) == 3


def test_a_sample_without_a_row_leaves_the_day_as_a_whole(alone, asked, monkeypatch):
    monkeypatch.setattr(agreement, "_CUTS", agreement._CUTS.replace("= 0", "= -1"))
    assert told(run()) == alone
    assert asked == []


def test_a_day_of_one_object_alone_has_parts_that_hold_none(asked):
    ours("ch_1", 900)
    for _ in range(9):
        theirs("ch_1", 100)
    report = run()
    assert asked[0][3] == ["ch_1"] * 3
    assert (report.matched, report.residual, found()) == (1, {"usd": 0}, {})


def test_helpers_find_the_same(alone, asked, monkeypatch):
    ask = sharing._ask_for_help

    def ask_and_let_them(*arguments: Any) -> None:
        ask(*arguments)
        looked.append(helped(asked))

    looked: list[int] = []
    monkeypatch.setattr(sharing, "_ask_for_help", ask_and_let_them)
    assert told(run()) == alone
    assert looked == [len(asked[0][3]) + 1]  # all parts
    assert not RunPart.objects.exists()
    assert not RunPartLeft.objects.exists()


def helped(asked: list[tuple[str, str, str, list[str]]]) -> int:
    """A helper on a connection of its own; how many parts it looked at."""
    looked = []

    def work() -> None:
        try:
            run_id, look_id, snapshot, cuts = asked[0]
            looked.append(services.help_run(run_id=UUID(run_id), look_id=UUID(look_id), snapshot=snapshot, cuts=cuts))
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    return looked[0]


def test_who_comes_too_late_finds_nothing_to_do(alone, asked):
    run()
    assert helped(asked) == 0
    late = ReconciliationRun.objects.get(state="completed", pk=asked[0][0])
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        ReconciliationRun.objects.filter(pk=late.pk).update(state="running", finished_at=None)
        cursor.execute("SET session_replication_role = origin")
    assert helped(asked) == 0  # the run's process has died: nobody can see with its eyes any more
    assert not RunPart.objects.exists()


def test_a_helper_that_is_killed_gives_its_part_back(alone, asked, monkeypatch):
    """A process of its own holds a part, and dies by SIGKILL while the run waits for nothing but that part."""
    ask = sharing._ask_for_help
    helpers = []

    def ask_and_lose_one(own: ReconciliationRun, look_id: UUID, cuts: list[str]) -> None:
        ask(own, look_id, cuts)
        code = (
            "import psycopg, sys, time\n"
            f"own = psycopg.connect({database_url()!r})\n"
            f"own.execute({sharing._LOCKED!r}, ['run_part:{look_id}:1'])\n"
            "print('holds it', flush=True)\ntime.sleep(60)\n"
        )
        helper = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert helper.stdout
        with helper.stdout:
            assert helper.stdout.readline() == "holds it\n"
        helpers.append(helper)

    free = sharing._free

    def and_then_it_dies(look_id: UUID, parts: list[int]) -> int | None:
        part = free(look_id, parts)
        if part is None:
            assert parts == [1]  # all others are done
            helpers[0].send_signal(signal.SIGKILL)
            helpers[0].wait()
        return part

    monkeypatch.setattr(sharing, "_ask_for_help", ask_and_lose_one)
    monkeypatch.setattr(sharing, "_free", and_then_it_dies)
    assert told(run()) == alone
    assert helpers[0].returncode == -signal.SIGKILL


def test_a_run_that_begins_anew_takes_nothing_from_its_first_look(alone, asked, monkeypatch):
    """Helpers looked with the eyes of a transaction that was rolled back for somebody else's sake."""
    ask, store = sharing._ask_for_help, findings.store
    looks: list[UUID] = []
    failed: list[bool] = []

    def ask_and_let_them(own: ReconciliationRun, look_id: UUID, cuts: list[str]) -> None:
        ask(own, look_id, cuts)
        looks.append(look_id)
        if len(looks) == 1:
            helped(asked)

    def fail_once(*arguments: Any, **options: Any) -> Any:
        if not failed:
            failed.append(True)
            ours("ch_same_new", 5)  # rolled back with all else
            with connection.cursor() as cursor:
                cursor.execute("DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END $$")
        return store(*arguments, **options)

    monkeypatch.setattr(sharing, "_ask_for_help", ask_and_let_them)
    monkeypatch.setattr(findings, "store", fail_once)
    assert told(run()) == alone
    assert len(set(looks)) == 2
    assert not RunPart.objects.exists()


def test_what_is_booked_while_a_run_looks_is_none_of_its_business(asked, monkeypatch):
    """Its totals are of the moment at which it matched, so a busy day has no false residual."""
    both("ch_1", 1500)
    store = findings.store

    def and_a_sale_comes_in(*arguments: Any, **options: Any) -> Any:
        def sell() -> None:
            try:
                theirs("ch_2", 800, at=NOON)
            finally:
                connection.close()

        if not Match.objects.exists():
            seller = threading.Thread(target=sell)
            seller.start()
            seller.join(20)
        return store(*arguments, **options)

    monkeypatch.setattr(findings, "store", and_a_sale_comes_in)
    report = run()
    assert (report.theirs_totals, report.residual) == ({"usd": 1500}, {"usd": 0})
    monkeypatch.setattr(findings, "store", store)
    assert run().theirs_totals == {"usd": 2300}
    assert found() == {"ch_2": Kind.MISSING_IN_OUR_SYSTEM}


def test_of_a_stale_look_nothing_is_left_behind(asked):
    RunPart.objects.create(run_id=uuid7(), look_id=uuid7(), part=0, sums=[])
    RunPartLeft.objects.create(run_id=uuid7(), look_id=uuid7(), part=0, kind="charge", source="ch_1")
    run()
    assert not RunPart.objects.exists()
    assert not RunPartLeft.objects.exists()


def test_a_worker_helps_through_celery(alone, settings, monkeypatch, tmp_path):
    settings.RECONCILE_PART_ROWS = 2
    free = sharing._free
    waited: list[bool] = []

    def wait_for_help(look_id: UUID, parts: list[int]) -> int | None:
        if not waited:
            waited.append(True)
            other = connection.copy()
            try:
                end = time.monotonic() + 40
                with other.cursor() as cursor:
                    while cursor.execute("SELECT 1 FROM reconciliation_runpart").fetchone() is None:
                        assert time.monotonic() < end, "no worker came"
                        time.sleep(0.05)
            finally:
                other.close()
        return free(look_id, parts)

    monkeypatch.setattr(sharing, "_free", wait_for_help)
    environment = os.environ | {"DATABASE_URL": database_url(), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "celery", "-A", "config", "worker", "-Q", "long", "--concurrency", "1"]
    with (tmp_path / "log").open("w") as output:
        worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        assert told(run()) == alone
    finally:
        worker.kill()
        worker.wait()


def database_url() -> str:
    """Of this test's own database."""
    url, _, _ = os.environ["DATABASE_URL"].rpartition("/")
    return f"{url}/{connection.settings_dict['NAME']}"


def test_a_run_sees_all_that_helpers_of_a_dead_one_have_written():
    """It waits for them before its moment comes: else their matches would stand where it is about to write the same."""
    helps, ended = threading.Event(), []

    def help_for_a_while() -> None:
        try:
            with helping():
                helps.set()
                time.sleep(0.5)
                ended.append(True)
        finally:
            connection.close()

    thread = threading.Thread(target=help_for_a_while)
    thread.start()
    assert helps.wait(10)
    with one_run(wait_s=10):
        assert ended
    thread.join(10)


def test_who_comes_to_help_the_last_run_while_the_next_one_waits_goes_away(alone, asked):
    run()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [locks._HELPERS_KEY])
        try:
            assert helped(asked) == 0
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [locks._HELPERS_KEY])


def test_helpers_leave_to_the_run_what_explains_its_statement(asked, monkeypatch):
    """A match within a tolerance whose sides agree by now: its difference is gone in the very run that sees it."""
    Tolerance.objects.create(merchant_id=MERCHANT, currency="usd", amount_minor=5, note="rounding", by="clara")
    payment = ours("ch_1", 1500)
    theirs("ch_1", 1503)
    for number in range(6):
        both(f"ch_same_{number}", 1000)
    run()
    assert Match.objects.get(object="charge:ch_1").difference_minor == 3
    ask = sharing._ask_for_help

    def ask_and_let_them(*arguments: Any) -> None:
        asked.clear()
        ask(*arguments)
        assert helped(asked)

    monkeypatch.setattr(sharing, "_ask_for_help", ask_and_let_them)
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute("UPDATE payments_payment SET captured_minor = 1503 WHERE id = %s", [payment.pk])
        cursor.execute("SET session_replication_role = origin")
    seen = []
    statements = books.statements

    def looked_at(*arguments: Any, **options: Any) -> Any:
        seen.append(Match.objects.get(object="charge:ch_1").difference_minor)
        return statements(*arguments, **options)

    monkeypatch.setattr(books, "statements", looked_at)
    run()
    assert seen == [0]


def test_the_lock_of_a_run_ends_with_it_whatever_comes(monkeypatch):
    with pytest.raises(ZeroDivisionError), one_run(wait_s=1):
        _ = 1 // 0
    taken = []

    def another() -> None:
        try:
            with one_writer(wait_s=1):
                taken.append(True)
        finally:
            connection.close()

    thread = threading.Thread(target=another)
    thread.start()
    thread.join(10)
    assert taken == [True]
    with transaction.atomic(), pytest.raises(RuntimeError, match="durable"), one_run(wait_s=1):
        pass
    assert Discrepancy.objects.count() == 0
