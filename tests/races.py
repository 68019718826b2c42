"""Races without luck: actors on connections of their own, stopped at named points and let go one at a time.

    def test_…(race, turns):                          # parametrized with every order of the turns
        race.stop("payments.services.refunds.lock_payment", at="after")
        race.actor("a", lambda: refund(1000))
        race.actor("b", lambda: refund(1000))
        race.play(turns)                              # for instance "a b b a"
        assert …

A turn lets one actor go until it stops at its next point, ends, or waits for a lock that another actor holds: of the
last PostgreSQL itself tells (`pg_blocking_pids`). So a race runs the same way each time, and nothing sleeps or hopes.

A race has its control: the same scenario with the guard taken out (`monkeypatch`, or `unguarded` for what stands in
the database), which must end in the damage. A control that ends well says that the test proves nothing.
"""

from collections.abc import Callable, Iterator
from itertools import permutations
from pkgutil import resolve_name
from threading import Condition, Thread, current_thread
from time import monotonic
from typing import Any, Literal

import pytest
from django.db import connection

from tests import cleaning

PATIENCE_S = 20  # far above anything that happens here: reached by a bug alone
LOOK_EVERY_S = 0.005  # how soon a wait for a lock is noticed

Result = Any  # what an actor returned, or the exception that it raised


def orders(*turns: str, alike: bool = False) -> list[str]:
    """Every order of these turns: `orders("a", "a", "b")` is `["a a b", "a b a", "b a a"]`.

    Where the actors are `alike`, who begins makes no difference: the first one named does.
    """
    every = sorted({" ".join(order) for order in permutations(turns)})
    return [order for order in every if order.split()[0] == turns[0]] if alike else every


class Killed(BaseException):
    """Raised by a test where an actor's process shall die: no handler of ours catches it."""


class Actor:
    """One thread of a race. `where` is where it stands: ready, running, a point's name, or ended."""

    def __init__(self, name: str, work: Callable[[], Result]) -> None:
        self.name = name
        self.work = work
        self.where = "ready"
        self.passed: set[str] = set()
        self.result: Result = None
        self.pid = 0  # of its PostgreSQL backend
        self.thread: Thread | None = None


class Race:
    """Use the fixture `race`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._actors: dict[str, Actor] = {}
        self._moved = Condition()
        self._moves = 0
        self._over = False

    # --- What a test says -------------------------------------------------------------------------------

    def actor(self, name: str, work: Callable[[], Result]) -> None:
        self._actors[name] = Actor(name, work)

    def stop(self, point: str, *, at: Literal["before", "after"] = "before", actor: str = "") -> None:
        """Stop every actor (or that one) where it first comes by a function, named `module.attribute`."""
        real = resolve_name(point)
        where = f"{at} {point}"

        def stopping(*positional: Any, **named: Any) -> Any:
            if at == "before":
                self._arrive(where, actor)
            answer = real(*positional, **named)
            if at == "after":
                self._arrive(where, actor)
            return answer

        self._monkeypatch.setattr(point, stopping)

    def stop_before_commit(self, *, actor: str = "") -> None:
        """Stop where the first transaction is about to commit."""
        self.stop("django.db.backends.base.base.BaseDatabaseWrapper._commit", actor=actor)

    def turn(self, name: str) -> str:
        """Let one actor go; where it stands then: a point, `waiting` for another one's lock, or `ended`."""
        actor = self._actors[name]
        if actor.where == "ready":
            actor.thread = Thread(target=self._run, args=[actor], name=f"race {name}", daemon=True)
            actor.where = "running"
            actor.thread.start()
        elif actor.where not in ("running", "ended"):
            with self._moved:
                actor.where = "running"
                self._moved.notify_all()
        self._settle()
        return "waiting" if actor.where == "running" else actor.where

    def play(self, turns: str) -> dict[str, Result]:
        """Play these turns, then let everybody go to the end; what each returned or raised."""
        for name in turns.split():
            self.turn(name)
        return self.finish()

    def finish(self) -> dict[str, Result]:
        while open_ := [actor.name for actor in self._actors.values() if actor.where != "ended"]:
            for name in open_:
                self.turn(name)
        return {actor.name: actor.result for actor in self._actors.values()}

    # --- Underneath -------------------------------------------------------------------------------------

    def _run(self, actor: Actor) -> None:
        try:
            connection.ensure_connection()
            actor.pid = connection.connection.info.backend_pid
            actor.result = actor.work()
        except BaseException as error:  # noqa: BLE001  told to the test
            actor.result = error
        finally:
            connection.close()
            self._note(actor, "ended")

    def _arrive(self, where: str, only: str) -> None:
        actor = next((one for one in self._actors.values() if one.thread is current_thread()), None)
        if actor is None or only not in ("", actor.name) or where in actor.passed or self._over:
            return
        actor.passed.add(where)
        self._note(actor, where)
        with self._moved:
            self._moved.wait_for(lambda: actor.where == "running" or self._over, timeout=PATIENCE_S)

    def _note(self, actor: Actor, where: str) -> None:
        with self._moved:
            actor.where = where
            self._moves += 1
            self._moved.notify_all()

    def _settle(self) -> None:
        """Until whoever runs has stopped, ended, or waits for a lock of somebody who has."""
        end = monotonic() + PATIENCE_S
        while True:
            with self._moved:
                seen = self._moves
                running = [actor for actor in self._actors.values() if actor.where == "running"]
            if not running or (self._all_blocked(running) and self._moves == seen):
                return
            assert monotonic() < end, {actor.name: actor.where for actor in self._actors.values()}
            with self._moved:
                self._moved.wait_for(lambda before=seen: self._moves != before, timeout=LOOK_EVERY_S)  # type: ignore[misc]

    def _all_blocked(self, running: list[Actor]) -> bool:
        ours = [actor.pid for actor in self._actors.values() if actor.pid]
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM unnest(%s::int[]) AS pid WHERE pg_blocking_pids(pid) && %s::int[]",
                [[actor.pid for actor in running], ours],
            )
            return bool(cursor.fetchone()[0] == len(running))

    def abandon(self) -> None:
        """The test is over, however it ended: nobody stays stopped."""
        with self._moved:
            self._over = True
            self._moved.notify_all()
        for actor in self._actors.values():
            if actor.thread:
                actor.thread.join(PATIENCE_S)
                assert not actor.thread.is_alive(), f"{actor.name} never ended"


@pytest.fixture
def race(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Race]:
    one = Race(monkeypatch)
    yield one
    one.abandon()


class Unguarded:
    """Takes guards out of this test's database; all are back after the test. Use the fixture `unguarded`."""

    def __init__(self) -> None:
        self._back: list[tuple[str, str]] = []

    def constraint(self, table: str, name: str) -> None:
        """A CHECK."""
        self._drop(
            table,
            f"ALTER TABLE {table} DROP CONSTRAINT {name}",
            "SELECT format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', conrelid::regclass, conname,"
            " pg_get_constraintdef(oid)) FROM pg_constraint WHERE conname = %s",
            name,
        )

    def unique(self, table: str, name: str) -> None:
        """A unique constraint or a unique index, which Django uses for conditional ones."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_constraint WHERE conname = %s", [name])
            is_constraint = cursor.fetchone() is not None
        if is_constraint:
            self.constraint(table, name)
        else:
            self._drop(table, f"DROP INDEX {name}", "SELECT indexdef FROM pg_indexes WHERE indexname = %s", name)

    def function(self, name: str, old: str, new: str) -> None:
        """A part of one of our functions in PostgreSQL."""
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_get_functiondef(%s::regproc)", [name])
            whole = cursor.fetchone()[0]
        assert whole.count(old) == 1, whole
        self._back.append(("", whole))
        self._run(whole.replace(old, new))

    def triggers(self, table: str) -> None:
        """All of a table's own triggers."""
        self._run(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        self._back.append((table, f"ALTER TABLE {table} ENABLE TRIGGER USER"))

    def _drop(self, table: str, drop: str, definition: str, name: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(definition, [name])
            self._back.append((table, cursor.fetchone()[0]))
        self._run(drop)

    def _run(self, statement: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    def restore(self) -> None:
        for table, statement in reversed(self._back):
            if table:
                cleaning.truncate([table])  # the damage would not pass
            self._run(statement)


@pytest.fixture
def unguarded(transactional_db: None) -> Iterator[Unguarded]:
    guards = Unguarded()
    yield guards
    guards.restore()
