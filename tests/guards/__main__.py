"""Removes each guard in a copy of the tree and runs its tests there. All of them have to fail, an ordinary sale must not.

A test with parameters fails if one of its cases does: a race is lost in some order of turns, not in every one.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns import report
from tests.guards.removals import GUARDS, ORDINARY_SALE, Guard, remove

PROJECT = report.PROJECT
GUARDS_PAGE = PROJECT / "docs" / "guards.md"
JOBS = int(os.environ.get("JOBS") or 2)
ONLY = {int(number) for number in os.environ.get("ONLY", "").split(",") if number}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a guard's tests, by name, once it was removed."""

    guard: Guard
    failed: list[str]
    passed: list[str]
    sale: str  # the outcome of an ordinary sale
    output: str

    @property
    def holds(self) -> bool:
        return bool(self.failed) and not self.passed and self.sale == "passed"


def main() -> int:
    print(f"Guards against losing or doubling money\n{report.heading()}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="everycent-guards-") as folder:
        whole = _run(_copy(Path(folder) / "whole"), number=0, statements=[])
        broken = sorted(test for test, outcome in whole.tests.items() if outcome != "passed")
        if broken or not whole.tests:
            print(whole.output[-4000:])
            print(f"error: with all guards in place {len(broken)} of their tests fail: {', '.join(broken)}")
            return 1
        print(f"with all guards in place: {len(whole.tests) - 1} tests pass", flush=True)
        chosen = [guard for guard in GUARDS if not ONLY or guard.number in ONLY]
        with ThreadPoolExecutor(JOBS) as pool:
            verdicts = list(pool.map(lambda guard: _judge(guard, Path(folder)), chosen))
    table = report.table(
        ["#", "Failure", "Guard", "Removed: tests that fail", "An ordinary sale"],
        [
            [one.guard.number, one.guard.failure, one.guard.guard, f"{len(one.failed)} of {_count(one)}", one.sale]
            for one in verdicts
        ],
    )
    holding = sum(one.holds for one in verdicts)
    print(f"\n{table}\n\n{holding} of {len(verdicts)} guards hold")
    if report.told_to_write():
        report.write_section(GUARDS_PAGE, "guards", f"{report.heading()}\n\n{table}")
    return 0 if holding == len(verdicts) else 1


def _count(verdict: Verdict) -> int:
    return len(verdict.failed) + len(verdict.passed)


def _judge(guard: Guard, folder: Path) -> Verdict:
    copy = _copy(folder / str(guard.number))
    remove(guard, copy)
    ran = _run(copy, number=guard.number, statements=guard.statements)
    shutil.rmtree(copy)
    sale = ran.tests.pop(ORDINARY_SALE, "not run")
    failed = sorted(test for test, outcome in ran.tests.items() if outcome == "failed")
    passed = sorted(set(ran.tests) - set(failed))
    verdict = Verdict(guard, failed, passed, sale, ran.output)
    print(f"{guard.number:>2} {'holds' if verdict.holds else 'DOES NOT HOLD'}: {guard.failure}", flush=True)
    if not verdict.holds:
        print(f"   still pass without it: {', '.join(passed) or 'none'}; an ordinary sale: {sale}")
        if not failed or sale != "passed":
            print(ran.output[-3000:], flush=True)
    return verdict


@dataclass(frozen=True, slots=True)
class _Ran:
    tests: dict[str, str]  # by name without parameters: failed if one case failed
    output: str


def _run(copy: Path, *, number: int, statements: list[str]) -> _Ran:
    lines = copy / "guard-report.jsonl"
    environment = {
        **os.environ,
        "GUARD_NUMBER": str(number),
        "GUARD_REPORT": str(lines),
        "GUARD_STATEMENTS": json.dumps(statements),
    }
    command = [sys.executable, "-m", "pytest", "-p", "tests.guards.plugin", "-q", "-p", "no:randomly"]
    ran = subprocess.run(
        command, cwd=copy, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    tests: dict[str, str] = {}
    for line in lines.read_text().splitlines() if lines.exists() else []:
        told = json.loads(line)
        name = told["test"].partition("[")[0]
        # What fails while it is set up has shown nothing: the removal broke more than the guard.
        outcome = told["outcome"] if told["when"] == "call" else "not run"
        if tests.get(name) not in ("failed", "not run"):
            tests[name] = outcome
    return _Ran(tests, ran.stdout + ran.stderr)


def _copy(to: Path) -> Path:
    """The tree as it stands, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=PROJECT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (PROJECT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, to / name)
    return to


if __name__ == "__main__":
    sys.exit(main())
