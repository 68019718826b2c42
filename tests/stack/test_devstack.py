"""The whole stack from outside: it describes itself, what dies comes back, what ends leaves nothing, data survive.

How it is supervised in detail is tested on a smaller one, in test_supervision.py.
"""

import os
import signal
import subprocess
import urllib.request

import pytest

from config.devstack import system
from tests.stack import marks
from tests.stack_process import ROOT

pytestmark = pytest.mark.stack


def status_of(url: str) -> int:
    """Of a page that needs database, templates and static files."""
    with urllib.request.urlopen(f"{url}/admin/login/", timeout=10) as response:
        status: int = response.status
        return status


# --- It runs ------------------------------------------------------------------------------------------


def test_it_describes_itself(stack):
    info = stack.info
    assert {role: len(pids) for role, pids in info["pids"].items() if role != "supervisor"} == {
        "web": 1,
        "workers": 3,
        "beat": 1,
        "postgres": 1,
        "valkey": 1,
        "sandbox": 1,
    }
    assert info["pids"]["supervisor"] == stack.pid
    assert set(info["admin"]) == {"clerk", "manager", "second_manager", "operator"}
    assert status_of(info["url"]) == 200
    for name in ("stack.json", "credentials.json", "secrets.json", "secret_key"):
        assert (stack.var / name).stat().st_mode & 0o777 == 0o600, name


@pytest.mark.parametrize("role", ["web", "workers", "beat", "valkey", "sandbox", "postgres"])
def test_a_killed_child_comes_back(stack, role):
    marks.write(stack, f"before {role} died")
    killed = stack.info["pids"][role][0]

    os.kill(killed, signal.SIGKILL)

    def is_back():
        pids = stack.info["pids"][role]
        return killed not in pids and len(pids) == (3 if role == "workers" else 1) and all(map(system.is_alive, pids))

    stack.wait_for(is_back)
    if role == "web":
        stack.wait_for(lambda: system.accepts_connections("127.0.0.1", stack.port))
        assert status_of(stack.info["url"]) == 200
    if role == "postgres":
        assert marks.has(stack, "before postgres died")


# --- It ends -------------------------------------------------------------------------------------------


def test_killing_the_supervisor_leaves_no_process_and_loses_no_data(stack):
    marks.write(stack, "before the supervisor died")
    assert len(stack.all_processes()) >= 15  # among them web workers, Celery's pools, PostgreSQL's own

    stack.signal(signal.SIGKILL)

    assert not stack.wait_until_gone()
    assert not (stack.var / "stack.json").exists()
    assert marks.has(stack.start(), "before the supervisor died")


def test_make_without_arguments_lists_what_can_be_done():
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("help", "up", "down", "reset", "test", "check", "fmt", "bench", "screenshots"):
        assert f"make {target}" in listed
