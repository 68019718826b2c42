"""What `make guards` removes is still there to be removed, and every guard has a test that names it."""

import re
from pathlib import Path

import pytest

from tests.guards.removals import GUARDS, Guard, NotFoundOnceError, remove

PROJECT = Path(__file__).resolve().parent.parent.parent


def test_the_fifteen_are_numbered():
    assert [guard.number for guard in GUARDS] == list(range(1, 16))


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.failure)
def test_a_guard_can_be_removed(guard: Guard, tmp_path):
    assert guard.edits or guard.statements
    for edit in guard.edits:
        (tmp_path / edit.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / edit.path).write_text((PROJECT / edit.path).read_text())
    remove(guard, tmp_path)


def test_a_guard_that_is_not_where_it_was_is_told(tmp_path):
    for edit in GUARDS[0].edits:
        (tmp_path / edit.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / edit.path).write_text("")
    with pytest.raises(NotFoundOnceError, match="guard 1"):
        remove(GUARDS[0], tmp_path)


def test_every_guard_has_a_test():
    marks = re.compile(r"mark\.guard\((\d+)\)")
    named = {int(found) for path in (PROJECT / "tests").rglob("test_*.py") for found in marks.findall(path.read_text())}
    assert named == {guard.number for guard in GUARDS}
