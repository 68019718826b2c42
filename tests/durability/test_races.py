"""Two workers and one saga, a zombie and its heir: whatever they do in whatever order, each step happens once."""

from collections import Counter
from uuid import uuid4

import pytest
from django.db import transaction
from django.db.models.functions import Now

from durability import engine, outbox, services
from durability.models import Delivery, Heartbeat, SagaRun
from durability.types import Accepted, Context, Lane, Outcome
from tests.durability import toys
from tests.durability.toys import CoinDropped, script
from tests.races import Race, orders

ONCE = {"first": 1, "Accepted": 1, "last": 1}


@pytest.fixture(autouse=True)
def repeats_leave_a_trace(monkeypatch) -> None:
    """The toys' own marks are unique; here one that is made twice shall be seen, not refused."""

    def write(mark: str) -> None:
        Heartbeat.objects.create(name=f"{mark} {uuid4().hex[:8]}", seen_at=Now())

    monkeypatch.setattr(toys, "write", write)


def happened() -> Counter[str]:
    return Counter(name.rsplit(" ", 1)[0] for name in Heartbeat.objects.values_list("name", flat=True))


def steps() -> Counter[str]:
    """The same without key and attempt: step → how often it was committed."""
    return Counter(mark.split(":")[0] for mark in happened().elements())


def sent(key: str) -> None:
    """A point: the call has been made and nobody here knows yet."""


def calling(calls: list[str]) -> None:
    def call(context: Context) -> Outcome:
        calls.append(context.key)
        sent(context.key)
        return Accepted()

    script.call = call


def start() -> None:
    with transaction.atomic():
        services.start_saga("toys.toy", key="k")


def lease_ends() -> None:
    SagaRun.objects.update(available_at=Now())
    Delivery.objects.filter(state="running").update(available_at=Now())


def take_guard_away(monkeypatch) -> None:
    """From every write of a run's progress: the lease, and where the run stands."""
    guard = " AND lease_version = %(lease_version)s AND state = %(was)s AND current_step = %(stood_at)s"
    for name in ("_SAVE", "_SAVE_WITH_STEP"):
        statement = getattr(engine, name)
        assert guard in statement
        monkeypatch.setattr(engine, name, statement.replace(guard, ""))


# --- Two workers, one saga --------------------------------------------------------------------------


def two_workers(race: Race) -> list[str]:
    calls: list[str] = []
    calling(calls)
    start()
    race.stop("durability.engine._take", at="after")
    race.stop("tests.durability.toys.write")  # in the transaction of the first step
    race.stop(f"{__name__}.sent")
    for worker in ("a", "b"):
        race.actor(worker, lambda: services.resume_saga("toys.toy", key="k"))
    return calls


@pytest.mark.parametrize("turns", ["a b a b a b a b", "a b b a a a", "a a b b a a", "a a a b a b", "a a a a b b"])
def test_of_two_workers_one_has_the_saga(race, turns):
    calls = two_workers(race)
    race.play(turns)
    assert (steps(), calls) == (ONCE, ["k"])
    assert SagaRun.objects.get().state == "completed"


def test_control_workers_that_look_without_taking_do_everything_twice(race, monkeypatch):
    def look(statement: str, **which: object) -> SagaRun | None:
        return SagaRun.objects.filter(state="running").first()

    monkeypatch.setattr(engine, "_take", look)
    take_guard_away(monkeypatch)  # which would stop the second of them at its first commit
    calls = two_workers(race)
    race.play("a b a b a b a b")
    assert steps()["first"] == 2
    assert calls == ["k", "k"]


# --- A zombie and its heir --------------------------------------------------------------------------

# Where the first worker falls asleep for longer than its lease. (Inside a transaction it cannot lose it: it holds the
# row, and the heir skips that.)
NAPS = ["after durability.engine._take", f"before {__name__}.sent"]


def zombie_and_heir(race: Race, nap: str) -> list[str]:
    calls: list[str] = []
    calling(calls)
    start()
    at, point = nap.split()
    race.stop(point, at="after" if at == "after" else "before", actor="zombie")
    for name in ("zombie", "heir"):
        race.actor(name, lambda: services.resume_saga("toys.toy", key="k"))
    assert race.turn("zombie") == nap
    lease_ends()
    return calls


@pytest.mark.guard(8)
@pytest.mark.parametrize("nap", NAPS)
def test_a_zombie_commits_nothing_after_its_heir(race, nap):
    zombie_and_heir(race, nap)
    race.play("heir zombie")
    assert steps() == ONCE
    assert SagaRun.objects.get().state == "completed"


def test_a_zombie_commits_nothing_while_its_heir_is_at_work(race):
    calls = zombie_and_heir(race, NAPS[0])
    race.stop(f"{__name__}.sent", actor="heir")
    assert race.turn("heir") == f"before {__name__}.sent"
    assert race.turn("zombie") == "ended"
    race.finish()
    assert (steps(), calls) == (ONCE, ["k"])


@pytest.mark.parametrize("nap", NAPS)
def test_control_a_zombie_whose_lease_nobody_checks_does_its_step_again(race, monkeypatch, nap):
    take_guard_away(monkeypatch)
    zombie_and_heir(race, nap)
    race.play("heir zombie")
    assert max(steps().values()) == 2


# --- The same for deliveries ------------------------------------------------------------------------


def two_deliverers(race: Race, *, lane: Lane) -> None:
    with transaction.atomic():
        for coin in "abc":
            services.publish(CoinDropped(jar=coin, coin=coin))

    def deliver() -> None:
        while outbox.deliver_batch(lane):
            pass

    race.stop("durability.outbox.claim", at="after")
    for name in ("zombie", "heir"):
        race.actor(name, deliver)


@pytest.mark.parametrize("turns", orders("zombie", "zombie", "heir", "heir", alike=True))
@pytest.mark.parametrize("lane", list(Lane))
def test_two_workers_deliver_each_message_once(race, lane, turns):
    two_deliverers(race, lane=lane)
    race.play(turns)
    told = Counter(script.said) if lane is Lane.OUTSIDE else happened()
    assert set(told.values()) == {1}
    assert len(told) == 3


@pytest.mark.guard(8)
def test_a_zombie_with_a_batch_of_deliveries_commits_none_of_them_after_its_heir(race):
    two_deliverers(race, lane=Lane.OWN)
    race.turn("zombie")
    lease_ends()
    race.play("heir heir zombie")
    assert happened() == {"counted:a": 1, "counted:b": 1, "counted:c": 1}


def test_control_a_zombie_whose_receipt_nobody_checks_delivers_again(race, monkeypatch):
    monkeypatch.setattr(outbox, "_mine", lambda one: Delivery.objects.filter(pk=one.id))
    two_deliverers(race, lane=Lane.OWN)
    race.turn("zombie")
    lease_ends()
    race.play("heir heir zombie")
    assert happened() == {"counted:a": 2, "counted:b": 2, "counted:c": 2}
