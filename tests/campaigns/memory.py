"""How much memory each role of a stack uses, and whether that stays flat.

What a role uses is the proportional set size (PSS) of its process tree, without shared memory: PostgreSQL's `shared_buffers`
fill up to what they are set to, and say nothing about leaks. Whether it grows is judged by what each process has written
itself (its anonymous resident memory), from one birth to one death: a page that was shared since the fork and is copied,
or a sibling that dies, moves the PSS and leaks nothing. And each life is cut where something was killed that processes stand
on: the first time that a process loses its database it takes, once, what it needs to say so. (Measured: a worker whose
connection was ended 120 times in a row wrote 2.5 MB with the first thirty, and nothing with the rest.)
"""

import contextlib
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import redis

MB = 2**20
SHAKEN_S = 30.0  # after something was killed that processes stand on, they notice, complain and connect again
WARM_UP_S = 180.0  # of a process: imports, connections, caches, and the first time of each kind of work
# Growth over the measured time that is no growth: what allocators and caches do by themselves.
FLAT_SHARE = 0.05
FLAT_MB = 4.0
LONG_ENOUGH_S = 600.0  # of measured time; below it a slope is printed and judged by nobody
STREAM = "everycent:events"


@dataclass(frozen=True, slots=True)
class Sample:
    """One role at one moment. `written`: process id → its own anonymous memory, MB."""

    at_s: float
    role: str
    mb: float
    written: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Trend:
    """`growth_mb_h`: the slope within the lives of processes, after their warm-up, for all processes of the role
    together; `measured_s`: how much time that is, of one process on average."""

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
                samples.append(Sample(at_s, _name(role, pid), mb, {one: _written_mb(one) for one in tree}))
    samples += _without_stream(samples, info, at_s)
    return samples


def _without_stream(samples: Iterable[Sample], info: dict[str, Any], at_s: float) -> list[Sample]:
    """Valkey keeps the stream for consumers outside, up to a set length: growth beside it would be a leak."""
    with contextlib.suppress(redis.RedisError), redis.Redis.from_url(info["redis_url"], socket_timeout=2) as client:
        stream_mb = float(client.memory_usage(STREAM) or 0) / MB
        return [
            Sample(
                at_s,
                "valkey without the stream",
                one.mb - stream_mb,
                {pid: mb - stream_mb for pid, mb in one.written.items()},
            )
            for one in samples
            if one.role == "valkey"
        ]
    return []


def trends(samples: Iterable[Sample], shaken_at: Iterable[float] = ()) -> dict[str, Trend]:
    """Role → how its memory went. `shaken_at`: when something was killed that processes stand on."""
    by_role: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_role[sample.role].append(sample)
    cuts = sorted(shaken_at)
    return {role: _trend(found, cuts) for role, found in by_role.items()}


def _trend(samples: Sequence[Sample], cuts: Sequence[float]) -> Trend:
    """Least squares with one slope for all stretches of processes' lives and a level of its own for each."""
    above = below = lived_s = 0.0
    for stretch in _stretches(samples, cuts):
        lived_s += stretch[-1][0] - stretch[0][0]
        middle_s = sum(at_s for at_s, _ in stretch) / len(stretch)
        middle_mb = sum(mb for _, mb in stretch) / len(stretch)
        above += sum((at_s - middle_s) * (mb - middle_mb) for at_s, mb in stretch)
        below += sum((at_s - middle_s) ** 2 for at_s, _ in stretch)
    processes = median(len(sample.written) for sample in samples)
    growth_mb_h = above / below * 3600 * processes if below else 0.0
    return Trend(median(sample.mb for sample in samples), growth_mb_h, lived_s / processes)


def _stretches(samples: Sequence[Sample], cuts: Sequence[float]) -> list[list[tuple[float, float]]]:
    """(when, MB) of each process, after its warm-up, from one cut to the next; whatever is too short to have a slope is left out."""
    born: dict[int, float] = {}
    found: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        shaken = bisect(cuts, sample.at_s)
        is_calm = not shaken or sample.at_s - cuts[shaken - 1] >= SHAKEN_S
        for pid, mb in sample.written.items():
            lived_s = sample.at_s - born.setdefault(pid, sample.at_s)
            if is_calm and lived_s >= WARM_UP_S:
                found[pid, shaken].append((sample.at_s, mb))
    return [stretch for stretch in found.values() if len(stretch) >= 3]


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


def _written_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _name(role: str, pid: int) -> str:
    """Workers by their queue."""
    if role != "workers":
        return role
    with contextlib.suppress(OSError, ValueError, IndexError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        return f"worker {words[words.index('-Q') + 1]}"
    return role
