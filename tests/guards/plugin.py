"""Loaded with `-p tests.guards.plugin` in a copy of the tree: runs one guard's tests, without its constraints."""

import json
import os
from pathlib import Path

import pytest
from django.db import connection

from tests.guards.removals import ORDINARY_SALE

_number = int(os.environ["GUARD_NUMBER"])  # 0: the tests of all guards
_report = Path(os.environ["GUARD_REPORT"])
_statements: list[str] = json.loads(os.environ["GUARD_STATEMENTS"])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if _number in _guards_of(item) or item.nodeid == ORDINARY_SALE]


def _guards_of(item: pytest.Item) -> set[int]:
    guards = {int(mark.args[0]) for mark in item.iter_markers("guard")}
    return guards | {0} if guards else set()


@pytest.fixture(scope="session", autouse=True)
def _removed_from_the_database(django_db_setup, django_db_blocker) -> None:
    """Constraints and triggers of the guard, dropped from this run's own test database."""
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        for statement in _statements:
            cursor.execute(statement)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One line a test that failed or came to its end; what fails while it is set up has not run."""
    if report.when == "call" or report.failed:
        line = {"test": report.nodeid, "outcome": report.outcome, "when": report.when}
        with _report.open("a") as lines:
            lines.write(json.dumps(line) + "\n")
