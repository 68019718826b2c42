"""One long history, told in chapters: after each, everything comes to rest and all laws are looked at.

The shop goes on from chapter to chapter. A chapter that breaks a law is played again in a fresh shop, and shrunk there to
the few operations that it takes; where it needs what went before, it is printed as it was.
"""

import logging
import os
import shutil
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import hypothesis
from django.db import connections
from django.test.utils import setup_databases, setup_test_environment
from hypothesis import HealthCheck, Phase
from hypothesis.stateful import run_state_machine_as_test

from tests import servers
from tests.campaigns import report
from tests.campaigns.audit import Audit
from tests.histories.laws import ALWAYS, AT_REST
from tests.histories.machine import NOBODY, Diary, History, Teller
from tests.histories.stack import SLACK_S, FarSandbox, StackWorkshop
from tests.histories.world import Workshop
from tests.sandbox_process import SandboxProcess, start_sandbox
from tests.stack_process import RunningStack

CHAPTER = 50  # operations
_AT_A_TIME = (
    6  # chapters: from ten examples on Hypothesis mostly varies those that it had, which makes for dull histories
)


def run(*, operations: int, seed: int, stack: RunningStack | None = None) -> bool:
    """The campaign; prints and, when told, writes the report. False if a law was broken."""
    print(f"Seed {seed}: {operations} operations, chapters of {CHAPTER}.", flush=True)
    folder = servers.TEST_DATA / f"{os.getpid()}-history"
    folder.mkdir(parents=True)
    setup_test_environment()
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    text = ""
    try:
        with _beside(stack, folder) if stack else _alone(folder) as world:
            opened = world.open()
            played = machine(world, goes_on=True)
            if tell(played, operations, seed, shrink=stack is None):
                audit = world.books().audit
                text = written(played.diary, audit, seed=seed, on_stack=bool(stack), took_s=time.monotonic() - began)
            world.close()
            opened.disable()
    finally:
        connections.close_all()
        shutil.rmtree(folder, ignore_errors=True)
    if not text:
        return False
    print(f"\n{text}")
    if report.told_to_write():
        report.write_section(report.RELIABILITY, "history on a stack" if stack else "history", text)
    return True


@contextmanager
def _alone(folder: Path) -> Iterator[Workshop]:
    """A shop with a database and a sandbox of its own, in which nothing runs by itself."""
    setup_databases(verbosity=0, interactive=False)
    sandbox = start_sandbox(folder, news_after_s=0)
    try:
        yield Workshop(sandbox, folder / "mails")
    finally:
        sandbox.stop()


@contextmanager
def _beside(stack: RunningStack, folder: Path) -> Iterator[Workshop]:
    yield StackWorkshop(
        cast(SandboxProcess, FarSandbox(stack.info["stripe_api_base"])), folder / "mails", slack_s=SLACK_S, stack=stack
    )


def machine(world: Workshop, *, goes_on: bool = False, rules: Sequence[str] = ()) -> type[Teller]:
    """A machine of its own, with an empty diary; with all rules, or with some."""
    values: dict[str, Any] = {"world": world, "diary": Diary(), "goes_on": goes_on, "broken": False}
    if rules:
        return type("Excerpt", (Teller,), values | {name: vars(History)[name] for name in rules})
    return type("History", (History,), values)


def play(
    played: type[Teller], *, histories: int, operations: int, seed: int | None = None, shrink: bool = True
) -> None:
    """So many histories of so many operations each, the same ones for the same seed. Raises what broke a law."""
    hypothesis.seed(seed)(played)
    run_state_machine_as_test(
        played,
        settings=hypothesis.settings(
            max_examples=1 + histories,  # the first is one in which nothing happens
            stateful_step_count=operations,
            phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            print_blob=False,
            report_multiple_bugs=False,
        ),
    )


def tell(played: type[Teller], operations: int, seed: int, *, shrink: bool) -> bool:
    """Chapter after chapter. The first one that breaks a law is shown, and is the last: False."""
    diary = played.diary
    while (left := operations - diary.operations) > 0:
        histories = min(_AT_A_TIME, -(-left // CHAPTER))
        try:
            play(
                played,
                histories=histories,
                operations=min(CHAPTER, left),
                seed=seed * 1_000 + diary.rests,
                shrink=shrink,
            )
        except BaseException:
            if not diary.broken_chapter:
                raise
            print(f"\nBROKEN in {diary.broken_chapter[0]}: make history N={operations} SEED={seed}")
            print("The chapter as it was:", *diary.broken_chapter[1:], sep="\n  ")
            print(diary.broken_by)
            if shrink:
                print("… and shrunk in a fresh shop, where it breaks there, too:")
                traceback.print_exc()
            return False
        print(f"{diary.operations} operations, {diary.rests} times at rest, all laws true", flush=True)
    return True


def written(diary: Diary, audit: Audit, *, seed: int, on_stack: bool, took_s: float) -> str:
    """The report, in Markdown."""
    by_operation: dict[str, Counter[str]] = defaultdict(Counter)
    for (operation, outcome), count in diary.outcomes.items():
        by_operation[operation][outcome] += count
    rows: list[list[object]] = [
        [operation, outcomes.total(), ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())]
        for operation, outcomes in sorted(by_operation.items())
    ]
    idle = sum(count for (_, outcome), count in diary.outcomes.items() if outcome == NOBODY)
    orders = ", ".join(f"{count} {status}" for status, count in audit.orders.most_common())
    totals: list[list[object]] = [
        ["operations", diary.operations],
        [f"… of them “{NOBODY}”", idle],
        [f"looks at the {len(ALWAYS)} laws that always hold", diary.looks],
        [f"looks at all {len(ALWAYS) + len(AT_REST)} laws, at rest", diary.rests],
        ["orders", f"{audit.orders.total():,}: {orders}"],
        ["charges", audit.charges],
        ["refunds", audit.refunds],
        ["**cents off**", sum(audit.cents_off.values())],
    ]
    return "\n\n".join(
        [
            f"{report.heading(seed=seed)}; `make history N={diary.operations} SEED={seed}{' ON=stack' if on_stack else ''}`;"
            f" took {took_s / 60:.1f} min.",
            report.table(["", "in the end"], totals),
            report.table(["operation", "times", "what came of it"], rows),
        ]
    )
