"""One stuck thing stops nothing else: hangs, slow other sides, killers, and what an operator can decide."""

import contextlib
import os
import signal
import threading
import time
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.models.functions import Now

from durability import doorbell, engine, leases, outbox, services, shares
from durability.errors import ReasonMissing
from durability.limits import TookTooLong, time_limit
from durability.models import Delivery, SagaRun, SagaStep
from durability.types import Lane, Refused, Succeeded, Unknown
from foundation.errors import IllegalTransition
from tests.durability.test_outbox import drop, fail, make_due, states, work
from tests.durability.test_sagas import raise_, run_due, start, state
from tests.durability.toys import CoinDropped, marks, script


@pytest.fixture(autouse=True)
def _nobody_rests():
    shares.forget()
    yield
    shares.forget()


def hang(_: object) -> Any:
    while True:
        with contextlib.suppress(Exception):  # it swallows what it can
            time.sleep(60)


def kill_this_process(_: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def slow_and_unsure(_: object) -> Unknown:
    time.sleep(0.05)
    return Unknown("slow")


# --- Hangs -----------------------------------------------------------------------------------------------


def test_a_handler_that_hangs_is_interrupted_and_ends_parked(settings):
    settings.STEP_TIME_LIMIT_S = 0.1
    settings.DELIVERY_MAX_ATTEMPTS = 2
    script.on_coin = lambda event: hang(event) if event.coin == "hangs" else None
    drop("a", "hangs")
    drop("b", "fine")
    work()
    assert marks() == ["counted:fine"]
    make_due()
    work()
    assert states() == ["parked", "done"]
    assert "took longer than 0.1 s" in Delivery.objects.get(state="parked").last_error


def test_a_call_that_hangs_is_interrupted_and_asked_again(settings):
    settings.CALL_TIME_LIMIT_S = 0.1
    script.call = hang
    start()
    run_due()
    assert state() == "running"
    assert "TookTooLong" in SagaRun.objects.get().error
    script.call = lambda context: Succeeded()
    run_due()
    assert state() == "completed"


def test_a_limit_interrupts_a_statement_and_leaves_a_connection_that_works():
    from django.db import connection

    with pytest.raises(TookTooLong), time_limit(0.2), connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(20)")
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


# --- Lanes -----------------------------------------------------------------------------------------------


def test_a_hanging_outside_handler_delays_no_handler_of_our_own():
    release = threading.Event()

    def wait_for_release(_: object) -> None:
        release.wait(10)

    script.outside = wait_for_release
    drop("j", "a")

    def outside_worker() -> None:
        services.work(Lane.OUTSIDE)
        connections.close_all()

    slow = threading.Thread(target=outside_worker)
    slow.start()
    try:
        services.work(Lane.OWN)
        assert marks() == ["counted:a"]
    finally:
        release.set()
        slow.join()
    assert script.said == ["a"]


def test_a_worker_of_our_own_database_hands_a_saga_on_before_its_call():
    start()
    services.work(Lane.OWN)
    run = SagaRun.objects.get()
    assert (marks(), run.outside, run.current_step) == (["first:k"], True, 1)
    services.work(Lane.OUTSIDE)
    assert state() == "completed"


def test_a_slow_other_side_leaves_most_of_the_time_to_the_others(monkeypatch):
    monkeypatch.setattr(shares, "_SLOW_OUTSIDE_S", 0.0)
    script.call = slow_and_unsure
    start("slow")
    drop("j", "a")
    services.work(Lane.OWN)
    engine.work(Lane.OUTSIDE, until=time.monotonic() + 5)
    assert shares.resting(Lane.OUTSIDE) == ["toys.toy"]
    start("waits")
    services.work(Lane.OWN)
    services.work(Lane.OUTSIDE)
    assert script.said == ["a"]
    assert SagaStep.objects.filter(run__key="waits", name="call").count() == 0  # it rests
    monkeypatch.undo()
    shares.forget()
    script.call = lambda context: Succeeded()
    services.work(Lane.OUTSIDE)
    assert state("waits") == "completed"


def test_keys_that_hang_let_an_innocent_one_pass(settings):
    """One worker, as in a small shop: it meets each hanging key once before the innocent one, not at every attempt."""
    settings.STEP_TIME_LIMIT_S = 0.1
    settings.DELIVERY_BACKOFF_FIRST_S = 0
    settings.OUTBOX_BATCH = 2
    met: list[str] = []

    def hang_unless_innocent(event) -> None:
        met.append(event.coin)
        if event.coin != "innocent":
            hang(event)

    script.on_coin = hang_unless_innocent
    for number in range(4):
        drop(f"jar {number}", f"hangs {number}")
    outbox.deliver_batch(Lane.OWN)
    drop("jar", "innocent")
    for _ in range(3):
        outbox.deliver_batch(Lane.OWN)
    assert met[:5] == ["hangs 0", "hangs 1", "hangs 2", "hangs 3", "innocent"]


def test_a_handler_that_hangs_in_our_own_database_rests_meanwhile(settings):
    settings.STEP_TIME_LIMIT_S = 3
    settings.DATABASE_LOCK_TIMEOUT_MS = 1_000
    script.on_coin = hang
    for number in range(4):
        drop(f"jar {number}", str(number))
    start()
    services.work(Lane.OWN)
    assert shares.resting(Lane.OWN) == ["toys.count"]
    assert shares.resting(Lane.OUTSIDE) == []
    assert marks() == ["first:k"]
    assert sorted(Delivery.objects.filter(handler="toys.count").values_list("attempts", flat=True)) == [0, 0, 0, 1]


def test_claiming_reads_its_index_in_order(settings):
    """However many wait: as many entries are read as are claimed."""
    from django.db import connection

    with transaction.atomic():
        services.publish_many([CoinDropped(jar=f"jar {number}", coin="a") for number in range(5_000)])
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE durability_delivery")
        values: dict[str, Any] = {
            "state": "pending",
            "outside": False,
            "handlers": ["toys.count"],
            "limit": 10,
            "lease_s": 10,
        }
        cursor.execute(f"EXPLAIN {outbox._CLAIM}", values)
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "using delivery_open_in_turn on durability_delivery" in plan
    assert "Sort" not in plan


def test_a_worker_whose_time_is_up_begins_nothing_more(settings):
    settings.WORK_FOR_S = 0
    start()
    drop("j", "a")
    services.work(Lane.OWN)  # either the delivery or the first step
    assert len(marks()) == 1
    services.work(Lane.OWN)
    services.work(Lane.OWN)
    assert marks() == ["counted:a", "first:k"]


def test_a_run_is_handed_on_when_its_workers_time_is_up():
    start()
    services.work(Lane.OWN)
    engine.work(Lane.OUTSIDE, until=time.monotonic())
    run = SagaRun.objects.get()
    assert (run.current_step, run.outside, run.attempts, run.deaths) == (2, False, 0, 0)
    services.work(Lane.OWN)
    assert state() == "completed"


def test_order_per_key_holds_with_four_workers():
    seen: dict[str, list[str]] = {f"jar {number}": [] for number in range(5)}
    guard = threading.Lock()

    def note(event) -> None:
        with guard:
            seen[event.jar].append(event.coin)

    script.outside = note
    for coin in range(8):
        for jar in seen:
            drop(jar, str(coin))

    def worker() -> None:
        while Delivery.objects.filter(outside=True, state__in=["pending", "running"]).exists():
            outbox.deliver_batch(Lane.OUTSIDE)
        connections.close_all()

    workers = [threading.Thread(target=worker) for _ in range(4)]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    assert set(map(tuple, seen.values())) == {tuple(map(str, range(8)))}


# --- Killers and poison ------------------------------------------------------------------------------------


def test_a_handler_that_kills_its_process_is_parked_after_bounded_deaths(settings):
    settings.LEASE_S = 0
    settings.DELIVERY_MAX_ATTEMPTS = 3
    script.on_coin = kill_this_process
    drop("j", "a")
    deaths = 0
    while not Delivery.objects.filter(handler="toys.count", state="parked").exists():
        if _dies(lambda: outbox.deliver_batch(Lane.OWN)):
            deaths += 1
        assert deaths <= 3
    assert deaths == 3
    assert marks() == []


def test_a_step_that_kills_its_process_is_taken_up_ever_later():
    script.call = kill_this_process
    start()
    services.work(Lane.OWN)
    pauses = []
    for _ in range(4):
        assert _dies(lambda: services.work(Lane.OUTSIDE))
        run = SagaRun.objects.extra(select={"pause": "extract(epoch FROM available_at - clock_timestamp())"}).get()
        pauses.append(round(run.pause / 10))
        SagaRun.objects.update(available_at=Now())
    assert pauses == [1, 2, 4, 8]


def _dies(work) -> bool:
    """Do it in a child process; whether that died by SIGKILL."""
    connections.close_all()
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("payload", [{"jar": "j"}, [], "text", 7], ids=str)
def test_a_payload_that_no_code_understands_ends_parked(settings, payload):
    settings.DELIVERY_MAX_ATTEMPTS = 1
    drop("j", "a")
    drop("k", "b")
    first = Delivery.objects.filter(handler="toys.count").earliest("pk").message
    type(first).objects.filter(pk=first.pk).update(payload=payload)
    work()
    assert states() == ["parked", "done"]


def test_a_parked_delivery_alarms_in_the_log(settings, caplog):
    settings.DELIVERY_MAX_ATTEMPTS = 1
    script.on_coin = fail
    drop("j", "a")
    work()
    assert "is parked" in caplog.text


# --- Leases ------------------------------------------------------------------------------------------------


def test_a_call_that_takes_longer_than_its_lease_keeps_it(settings):
    settings.LEASE_S = 1
    leases._forget()  # whose thread sleeps by the earlier lease

    def long_call(context):
        time.sleep(2.5)
        assert engine.take("toys.toy", key="k") is None
        return Succeeded()

    script.call = long_call
    start()
    run_due()
    assert state() == "completed"


# --- What an operator decides ------------------------------------------------------------------------------


def test_a_step_is_skipped_with_a_reason_and_the_saga_goes_on():
    script.call = lambda context: Unknown("away for ever")
    start()
    run_due()
    run = SagaRun.objects.get()
    with pytest.raises(ReasonMissing):
        services.skip_saga_step(run_id=run.pk, by="olga", reason=" ")
    services.skip_saga_step(run_id=run.pk, by="olga", reason="done by hand")
    work()
    assert state() == "completed"
    step = SagaStep.objects.get(name="call")
    assert (step.state, step.note, step.by) == ("skipped", "done by hand", "olga")
    with pytest.raises(IllegalTransition):
        services.skip_saga_step(run_id=run.pk, by="olga", reason="again")


def test_a_failed_compensation_is_skipped_with_a_reason():
    script.call = lambda context: Refused("no", "never")
    script.on_undo = raise_(RuntimeError("stuck"))
    start()
    for _ in range(12):
        run_due()
    assert state() == "compensation_failed"
    services.skip_saga_step(run_id=SagaRun.objects.get().pk, by="olga", reason="undone by hand")
    assert state() == "compensated"
    assert not [mark for mark in marks() if mark.startswith("undone")]


def test_a_running_saga_is_turned_back_with_a_reason():
    script.call = lambda context: Unknown("away for ever")
    start()
    run_due()
    services.compensate_saga(run_id=SagaRun.objects.get().pk, by="olga", reason="the customer gave up")
    work()
    assert state() == "compensated"
    assert "undone first:k" in marks()


def test_whoever_works_on_a_saga_that_an_operator_decides_on_commits_nothing():
    def overruled(context):
        services.compensate_saga(run_id=SagaRun.objects.get().pk, by="olga", reason="stop")
        return Succeeded()

    script.call = overruled
    start()
    run_due()
    assert state() == "compensated"
    assert not [mark for mark in marks() if mark.startswith(("Succeeded", "last"))]


def test_bells_ring_for_the_lane_that_has_work(valkey):
    drop("j", "a")
    assert {bell for bell in doorbell.TASKS if valkey.exists(f"everycent:doorbell:{bell}")} == {
        "own",
        "outside",
        "mirror",
    }
