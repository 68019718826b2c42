"""What the README shows by curl works as it stands there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack_process import ROOT

pytestmark = pytest.mark.stack


@pytest.fixture
def project(stack, tmp_path: Path) -> Path:
    """The project's folder as the README's reader sees it, with the running stack in var/."""
    (tmp_path / "var").symlink_to(stack.var)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "manage.py").symlink_to(ROOT / "manage.py")
    return tmp_path


def test_a_sale_by_curl(stack, project):
    _, _, section = (ROOT / "README.md").read_text().partition("## A sale by curl")
    script = section.partition("```sh\n")[2].partition("```")[0]
    done = subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=project,
        env=stack.environment | {"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"code"' not in done.stdout, "a call was refused"
    lines = iter(done.stdout.splitlines())
    # In this order, whatever else is printed between: each is looked for after the one before.
    for expected in ("succeeded", "paid", '"on_hand":3,"reserved":0', "succeeded", "partial", "ch_"):
        assert any(expected in line.replace(" ", "") for line in lines), f"{expected} is not in:\n{done.stdout}"
