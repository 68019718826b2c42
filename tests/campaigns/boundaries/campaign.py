"""Crosses every boundary of every unit, on a few processes that each have a database and a sandbox of their own."""

import logging
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connections
from django.test.utils import setup_databases, setup_test_environment

from foundation import redis
from tests import servers
from tests.campaigns import report
from tests.campaigns.boundaries.recorder import Boundary
from tests.campaigns.boundaries.runner import PassedByError, Recording, SceneError, cross, record
from tests.campaigns.boundaries.scenarios import MEETING, SCENARIOS
from tests.campaigns.boundaries.units import Unit, boundaries_of, may_come_later, missing, refusals, refusing
from tests.campaigns.boundaries.world import Performance, World
from tests.sandbox_process import start_sandbox

_AT_ONCE = 10  # boundaries that a process takes up at a time: so that all of them end together
_SHOWN_FINDINGS = 50
_LINE_EVERY_S = 60.0  # of progress, where nobody looks on
_NEWS_AFTER_S = 0.05  # the provider's late news of refunds


@dataclass(frozen=True, slots=True)
class Kill:
    """One process's next piece of work."""

    unit: Unit
    boundaries: list[Boundary]
    recording: Recording
    seed: int


@dataclass
class Outcome:
    """What became of a unit. `findings`: boundary → what differs."""

    unit: Unit
    boundaries: int = 0
    killed: int = 0
    findings: dict[str, list[str]] = field(default_factory=dict)


def performance(world: World, unit: Unit) -> Performance:
    return Performance(world, SCENARIOS[unit.scenario], meets=unit.scenario in MEETING)


def record_unit(world: World, unit: Unit) -> Recording:
    """Raises SceneError."""
    with refusing(unit):
        return record(performance(world, unit))


def cross_all(world: World, work: Kill) -> Outcome:
    """Kill at each boundary; who is the first to notice the death is drawn by lot."""
    outcome = Outcome(work.unit)
    stage = performance(world, work.unit)
    early = may_come_later(work.recording.boundaries)
    with refusing(work.unit):
        for boundary in work.boundaries:
            client_first = random.Random(f"{work.seed} {work.unit} {boundary}").random() < 0.5
            outcome.boundaries += 1
            try:
                found = cross(
                    stage, boundary, work.recording.ending, client_first=client_first, may_come_later=boundary in early
                )
            except PassedByError:
                continue
            outcome.killed += not any("was not reached" in line for line in found)
            if found:
                outcome.findings[f"{boundary} ({'client' if client_first else 'worker'} first)"] = found
    return outcome


# --- The processes ----------------------------------------------------------------------------------

_world: World
_shown_at = 0.0


def _begin(counter: Any, folder: Path) -> None:
    """In a process of the pool: its own database, Redis database, sandbox and mails."""
    global _world  # noqa: PLW0603  one a process
    with counter.get_lock():
        counter.value += 1
        number = counter.value
    logging.disable(logging.CRITICAL)
    for one in connections.all():
        one.settings_dict.update(one.creation.get_test_db_clone_settings(str(number)))
    settings.REDIS_URL = servers.with_redis_database(settings.REDIS_URL, number)
    settings.CELERY_BROKER_URL = settings.CACHES["default"]["LOCATION"] = settings.REDIS_URL
    redis.client.cache_clear()
    own = folder / str(number)
    own.mkdir()
    _world = World(start_sandbox(own, news_after_s=_NEWS_AFTER_S), own / "mails")
    _world.open()


def _record(unit: Unit) -> tuple[Unit, Recording | str]:
    try:
        return unit, record_unit(_world, unit)
    except SceneError as error:
        return unit, str(error)


def _cross(work: Kill) -> Outcome:
    return cross_all(_world, work)


# --- The whole --------------------------------------------------------------------------------------


def run(*, processes: int, seed: int, only: str = "") -> int:
    """The campaign. Returns how many findings there are; prints and, when told, writes the report."""
    began = time.monotonic()
    folder = servers.TEST_DATA / f"{os.getpid()}-boundaries"
    folder.mkdir(parents=True)
    setup_test_environment()
    setup_databases(verbosity=0, interactive=False, parallel=max(2, processes))  # Django clones nothing for one
    connections.close_all()
    context = multiprocessing.get_context("fork")
    try:
        with context.Pool(processes, _begin, (context.Value("i", 0), folder)) as pool:
            outcomes, gaps = _cross_everything(pool, seed=seed, only=only)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = _report(outcomes, gaps, seed=seed, took_s=time.monotonic() - began)
    print(f"\n{text}")
    for outcome in outcomes:
        for where, lines in list(outcome.findings.items())[:_SHOWN_FINDINGS]:
            print(f"\n{outcome.unit}\n  {where}", *lines, sep="\n    ")
    if report.told_to_write() and not only:
        report.write_section(report.RELIABILITY, "boundaries", text)
    return len(gaps) + sum(len(outcome.findings) for outcome in outcomes)


def _cross_everything(pool: Pool, *, seed: int, only: str) -> tuple[list[Outcome], list[str]]:
    units = [Unit(name) for name in SCENARIOS]
    outcomes: dict[Unit, Outcome] = {}
    recordings: dict[Unit, Recording] = {}
    for found in (units, None):
        for unit, recorded in pool.imap(_record, found or refusals(_noted(recordings))):
            outcomes[unit] = Outcome(unit)
            if isinstance(recorded, Recording):
                recordings[unit] = recorded
            else:
                outcomes[unit].findings["the scene"] = [recorded]
    gaps = missing(boundary for one in recordings.values() for boundary in one.boundaries)
    work = [one for one in _portions(recordings, seed) if any(part in str(one.unit) for part in only.split("|"))]
    total = sum(len(one.boundaries) for one in work)
    print(f"{len(recordings)} scenes, {total} boundaries, seed {seed}", flush=True)
    crossed = 0
    for part in pool.imap_unordered(_cross, work):
        whole = outcomes[part.unit]
        whole.boundaries += part.boundaries
        whole.killed += part.killed
        whole.findings |= part.findings
        crossed += part.boundaries
        _show(f"{crossed}/{total} boundaries, {sum(len(one.findings) for one in outcomes.values())} findings")
    return [one for one in outcomes.values() if one.boundaries or one.findings], gaps


def _portions(recordings: Mapping[Unit, Recording], seed: int) -> Iterator[Kill]:
    noted = _noted(recordings)
    for unit, recorded in recordings.items():
        boundaries = boundaries_of(unit, noted)
        for start in range(0, len(boundaries), _AT_ONCE):
            yield Kill(unit, boundaries[start : start + _AT_ONCE], recorded, seed)


def _noted(recordings: Mapping[Unit, Recording]) -> dict[Unit, list[Boundary]]:
    return {unit: one.boundaries for unit, one in recordings.items()}


def _show(progress: str) -> None:
    """In place on a terminal; a line a minute in a pipe."""
    global _shown_at  # noqa: PLW0603  of this process
    if sys.stdout.isatty():
        print(f"\r{progress}", end="", flush=True)
    elif time.monotonic() - _shown_at > _LINE_EVERY_S:
        _shown_at = time.monotonic()
        print(progress, flush=True)


def _report(outcomes: list[Outcome], gaps: list[str], *, seed: int, took_s: float) -> str:
    rows: list[list[object]] = [
        [str(one.unit), one.boundaries, one.killed, one.killed - len(one.findings), len(one.findings)]
        for one in outcomes
    ]
    boundaries, killed = sum(one.boundaries for one in outcomes), sum(one.killed for one in outcomes)
    findings = sum(len(one.findings) for one in outcomes)
    rows.append(["**all**", boundaries, killed, killed - findings, findings])
    return "\n\n".join(
        [
            report.heading(seed=seed) + f"; took {took_s / 60:.1f} min.",
            report.table(["what is interrupted", "boundaries", "killed", "resumed right", "findings"], rows),
            *gaps,
        ]
    )
