"""Kills a process at a boundary and compares what became of it with a run that nobody disturbed.

Knows no business: a `Stage` says how a scene is set, what is played, what the world does afterwards, and how things
stand in the end.
"""

import json
import os
import select
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn, Protocol

from django.db import connections

from tests.campaigns.boundaries.recorder import Boundary, Place, watch

LONGEST_S = 60  # a scene that takes longer hangs
PLAYS = 6  # of a scene that passes a boundary by: how its work falls into transactions is a matter of time, too

ENDINGS = 2  # more runs that nobody disturbs, to compare with

State = Mapping[str, Any]


class Stage(Protocol):
    """One scenario, which can be played as often as it takes."""

    def set_up(self) -> None:
        """Fresh data; everything that precedes what is to be interrupted."""

    def in_child(self) -> None:
        """In the forked process: connections of its own."""

    def play(self) -> None:
        """What is interrupted, from beginning to end. A disturbed run plays it again, as a client would."""

    def rest(self) -> None:
        """What the product does by itself, leases and pauses being over, until nothing is left to do."""

    def state(self) -> State:
        """How things stand, without anything that differs from run to run (ids, times)."""


_kept: list[Any] = []  # never closed by a child: closing would speak to the server


def leave_connections_to_the_parent() -> None:
    """In a forked child: the database connections that the parent has open stay the parent's."""
    for one in connections.all(initialized_only=True):
        _kept.append(one.connection)
        one.connection = None


class SceneError(Exception):
    """The scene could not be played at all, killed or not."""


class NotReachedError(Exception):
    """The process did not die where it should have."""


class PassedByError(Exception):
    """A place that one run came to, and that no other one does, whether or not a process is to die there: how work falls into
    transactions is a matter of time.
    """


@dataclass(frozen=True, slots=True)
class Recording:
    """The boundaries of one undisturbed run in their order, and how things stood at its end."""

    boundaries: list[Boundary]
    ending: State


def note(stage: Stage) -> list[Boundary]:
    """Play the scene undisturbed in a process of its own, and note every boundary. Raises SceneError."""
    stage.set_up()
    seen: list[Boundary] = []
    said, status = _in_child(stage, seen.append, lambda: json.dumps([asdict(one) for one in seen]))
    if status != 0:
        raise SceneError(said or f"the scene ended with status {status}")
    return [Boundary(**{**one, "place": Place(**one["place"])}) for one in json.loads(said)]


def record(stage: Stage) -> Recording:
    """Note the boundaries, and how things stand when the world has gone on undisturbed. Raises SceneError."""
    boundaries = note(stage)
    return Recording(boundaries, _resumed(stage, client_first=False))


def killed_and_resumed(stage: Stage, boundary: Boundary, *, client_first: bool) -> State:
    """Kill the process at a boundary and resume: how things stand then. Raises NotReachedError.

    Either may be the first to notice a death: the client, who asks again, or the workers.
    """

    def die(reached: Boundary) -> None:
        if reached == boundary:
            os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(PLAYS):
        stage.set_up()
        said, status = _in_child(stage, die, lambda: "")
        if status == -signal.SIGKILL:
            return _resumed(stage, client_first=client_first)
    raise NotReachedError(f"the boundary was not reached in {PLAYS} plays (status {status}) {said}".strip())


def cross(stage: Stage, boundary: Boundary, ending: State, *, client_first: bool, may_come_later: bool) -> list[str]:
    """The findings of one kill: none, if nothing was lost or doubled. Raises PassedByError.

    Where what the client asked for `may_come_later`, since nothing of it is stored or nobody has an answer yet, the world may
    go on before the client asks again: then the ending of a run whose first request never came is as right.
    """
    try:
        found = killed_and_resumed(stage, boundary, client_first=client_first)
        differs = differences(ending, found)
        if differs and may_come_later and found == _asked_later(stage):
            return []
        # Nothing is wrong with an ending that an undisturbed run has, too: news come now before a step, now after it.
        if differs and any(found == record(stage).ending for _ in range(ENDINGS)):
            return []
        return differs
    except NotReachedError as error:
        if not _comes_again(stage, boundary):
            raise PassedByError from error
        return [str(error)]
    except Exception:  # noqa: BLE001  whatever it is that could not go on is the finding
        return [f"could not go on: {traceback.format_exc(limit=-4)}"]


def _comes_again(stage: Stage, boundary: Boundary) -> bool:
    """Whether each undisturbed run comes to it: then one that is to die there would have."""
    try:
        return all(boundary in note(stage) for _ in range(ENDINGS))
    except SceneError:
        return True  # then that is to be told


def _asked_later(stage: Stage) -> State:
    stage.set_up()
    return _resumed(stage, client_first=False)


def differences(expected: State, found: State) -> list[str]:
    return [
        f"{name}: {found.get(name)}, undisturbed {expected.get(name)}"
        for name in sorted({*expected, *found})
        if found.get(name) != expected.get(name)
    ]


def _resumed(stage: Stage, *, client_first: bool) -> State:
    """A client asks again until it has a final answer: after the second rest there is one."""
    if client_first:
        stage.play()
    stage.rest()
    stage.play()
    stage.rest()
    stage.play()
    return stage.state()


def _in_child(stage: Stage, reached: Callable[[Boundary], None], report: Callable[[], str]) -> tuple[str, int]:
    """Play the scene in a forked process. Returns what it reported, and its exit code (negative: the signal)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_child(stage, reached, report, writing)
    os.close(writing)
    try:
        said = _read_until_it_ends(pid, reading)
    finally:
        os.close(reading)
        _, status = os.waitpid(pid, 0)
    return said, os.waitstatus_to_exitcode(status)


def _be_child(stage: Stage, reached: Callable[[Boundary], None], report: Callable[[], str], writing: int) -> NoReturn:
    status = 1
    try:
        with os.fdopen(writing, "w") as pipe:
            try:
                stage.in_child()
                watch(reached)
                stage.play()
                pipe.write(report())
                status = 0
            except BaseException:  # noqa: BLE001  the parent tells of it
                pipe.write(traceback.format_exc(limit=-6))
    finally:
        os._exit(status)


def _read_until_it_ends(pid: int, reading: int) -> str:
    """Whatever the child wrote; its end of the pipe closes when it dies, however that happens."""
    said = b""
    deadline = time.monotonic() + LONGEST_S
    while select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
        chunk = os.read(reading, 65_536)
        if not chunk:
            return said.decode()
        said += chunk
    os.kill(pid, signal.SIGTERM)
    return said.decode() + f" hung for {LONGEST_S} s"
