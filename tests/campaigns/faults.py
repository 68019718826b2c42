"""What a campaign does to a running stack: kills, and clocks that are turned. Each returns what it hit."""

import contextlib
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

from tests.campaigns.stack import FAKETIME, clock_file
from tests.stack_process import RunningStack

CLOCKS_S = (-25 * 3600, 25 * 3600)


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry.parent.name))
    return sorted(found)


def _roles(role: str) -> Callable[[RunningStack], list[int]]:
    return lambda stack: list(stack.info["pids"][role])


def _backends(stack: RunningStack) -> list[int]:
    """Any process of PostgreSQL's but the one that recovers it: docs/decisions/0025-postgresql-reads-by-itself.md."""
    return [pid for pid in _children("postgres")(stack) if b"postgres: startup" not in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _children(role: str) -> Callable[[RunningStack], list[int]]:
    return lambda stack: [child for pid in stack.info["pids"][role] for child in children_of(pid)]


# Who can be killed, and how often it is drawn. A backend's death makes PostgreSQL restart all its processes.
TARGETS: dict[str, tuple[Callable[[RunningStack], list[int]], int]] = {
    "web": (_roles("web"), 1),  # seldom: until it is back there is hardly any load
    "web worker": (_children("web"), 3),
    "worker": (_roles("workers"), 5),
    "pool child": (_children("workers"), 6),
    "beat": (_roles("beat"), 3),
    "valkey": (_roles("valkey"), 3),
    "postgres": (_roles("postgres"), 2),
    "backend": (_backends, 2),
    "sandbox": (_roles("sandbox"), 3),
}


def draw_target(rng: random.Random) -> str:
    (name,) = rng.choices(list(TARGETS), weights=[weight for _, weight in TARGETS.values()])
    return name


def kill(stack: RunningStack, target: str, rng: random.Random) -> bool:
    """SIGKILL one of them. False where none is there at the moment: it is dead already, and not back yet."""
    victims = TARGETS[target][0](stack)
    if not victims:
        return False
    try:
        os.kill(rng.choice(victims), signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def clocks(stack: RunningStack) -> list[str]:
    """The children whose clock can be turned; none where libfaketime is missing."""
    return sorted(path.name for path in clock_file(stack.var, "any").parent.glob("*")) if FAKETIME else []


def turn_clock(stack: RunningStack, child: str, seconds: int) -> None:
    """It is off by so much from about now on; a running process sees its clock jump."""
    new = stack.var / "clock.new"
    new.write_text(f"{seconds:+d}")
    new.replace(clock_file(stack.var, child))  # nobody reads half of it


def turn_clocks_back(stack: RunningStack) -> None:
    for child in clocks(stack):
        turn_clock(stack, child, 0)
