"""How much memory each role of a stack uses, and whether that stays flat.

Memory is the proportional set size (PSS) of a role's process tree, without shared memory: PostgreSQL's `shared_buffers` fill
up to what they are set to, and say nothing about leaks.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import redis

MB = 2**20
WARM_UP_S = 60.0  # of a process tree that has just begun, or lost a member: imports, connections, caches
# Growth over the measured time that is no growth: what allocators and caches do by themselves.
FLAT_SHARE = 0.05
FLAT_MB = 4.0
LONG_ENOUGH_S = 600.0  # of measured time; below it a slope is printed and judged by nobody
STREAM = "everycent:events"


@dataclass(frozen=True, slots=True)
class Sample:
    """One role at one moment. `members` tells one incarnation of its process tree from the next."""

    at_s: float
    role: str
    mb: float
    members: frozenset[int]


@dataclass(frozen=True, slots=True)
class Trend:
    """`growth_mb_h`: the slope within incarnations, after their warm-up; `measured_s`: how much time that is."""

    median_mb: float
    growth_mb_h: float
    measured_s: float

    @property
    def grown_mb(self) -> float:
        return self.growth_mb_h * self.measured_s / 3600

    @property
    def verdict(self) -> str:
        if self.measured_s < LONG_ENOUGH_S:
            return "too short to tell"
        return "flat" if self.grown_mb <= max(FLAT_SHARE * self.median_mb, FLAT_MB) else "GROWS"


def take(info: dict[str, Any], at_s: float) -> list[Sample]:
    """A sample of each role that is alive. `info` is what stack.json says at this moment."""
    children = _children()
    samples = []
    for role, pids in info["pids"].items():
        for pid in pids if isinstance(pids, list) else []:  # all of them are below the one supervisor
            tree = _tree(pid, children)
            mb = sum(map(_unshared_mb, tree))
            if mb:
                # Backends of PostgreSQL come and go with connections: its main process stands for them all.
                members = frozenset([pid] if role == "postgres" else tree)
                samples.append(Sample(at_s, _name(role, pid), mb, members))
    samples += _without_stream(samples, info, at_s)
    return samples


def _without_stream(samples: Iterable[Sample], info: dict[str, Any], at_s: float) -> list[Sample]:
    """Valkey keeps the stream for consumers outside, up to a set length: growth beside it would be a leak."""
    with contextlib.suppress(redis.RedisError), redis.Redis.from_url(info["redis_url"], socket_timeout=2) as client:
        stream_mb = float(client.memory_usage(STREAM) or 0) / MB
        return [
            Sample(at_s, "valkey without the stream", one.mb - stream_mb, one.members)
            for one in samples
            if one.role == "valkey"
        ]
    return []


def trends(samples: Iterable[Sample]) -> dict[str, Trend]:
    """Role → how its memory went."""
    by_role: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_role[sample.role].append(sample)
    return {role: _trend(found) for role, found in by_role.items()}


def _trend(samples: Sequence[Sample]) -> Trend:
    """Least squares with one slope for all incarnations and a level of its own for each."""
    above = below = measured_s = 0.0
    levels = []
    for life in _lives(samples):
        warm = [one for one in life if one.at_s - life[0].at_s >= WARM_UP_S]
        if len(warm) < 3:
            continue
        levels += [one.mb for one in warm]
        measured_s += warm[-1].at_s - warm[0].at_s
        middle_s = sum(one.at_s for one in warm) / len(warm)
        middle_mb = sum(one.mb for one in warm) / len(warm)
        above += sum((one.at_s - middle_s) * (one.mb - middle_mb) for one in warm)
        below += sum((one.at_s - middle_s) ** 2 for one in warm)
    growth_mb_h = above / below * 3600 if below else 0.0
    return Trend(median(levels or [one.mb for one in samples]), growth_mb_h, measured_s)


def _lives(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Cut where the process tree has other members than a sample before."""
    lives: list[list[Sample]] = []
    for sample in samples:
        if not lives or lives[-1][-1].members != sample.members:
            lives.append([])
        lives[-1].append(sample)
    return lives


def _children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found[int(entry.read_text().rsplit(")", 1)[1].split()[1])].append(int(entry.parent.name))
    return found


def _tree(pid: int, children: dict[int, list[int]]) -> list[int]:
    return [pid, *(below for child in children.get(pid, []) for below in _tree(child, children))]


def _unshared_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        rows = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if ":" in line
        )
        return sum(int(rows[name].split()[0]) for name in ("Pss_Anon", "Pss_File") if name in rows) / 1024
    return 0.0


def _name(role: str, pid: int) -> str:
    """Workers by their queue."""
    if role != "workers":
        return role
    with contextlib.suppress(OSError, ValueError, IndexError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        return f"worker {words[words.index('-Q') + 1]}"
    return role
