"""`make up` from outside: what dies comes back, what ends leaves nothing, data survive, faults are told in one line."""

import os
import signal
import socket
import subprocess
import urllib.request

import pytest

from config.devstack import system
from tests.stack import marks
from tests.stack_process import ROOT, RunningStack

pytestmark = pytest.mark.stack


def one_line(text: str) -> str:
    lines = [line for line in text.splitlines() if not line.startswith("make:")]
    assert len(lines) == 1, text
    assert lines[0].startswith("error: ")
    return lines[0]


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
        "workers": 2,
        "beat": 1,
        "postgres": 1,
        "valkey": 1,
        "sandbox": 1,
    }
    assert info["pids"]["supervisor"] == stack.pid
    assert set(info["admin"]) == {"clerk", "manager", "operator"}
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
        return killed not in pids and len(pids) == (2 if role == "workers" else 1) and all(map(system.is_alive, pids))

    stack.wait_for(is_back)
    if role == "web":
        stack.wait_for(lambda: system.accepts_connections("127.0.0.1", stack.port))
        assert status_of(stack.info["url"]) == 200
    if role == "postgres":
        assert marks.has(stack, "before postgres died")


def postgres_port(stack: RunningStack) -> int:
    return int(stack.info["database_url"].rsplit(":", 1)[1].split("/")[0])


# --- It ends -------------------------------------------------------------------------------------------


def test_killing_the_supervisor_leaves_no_process_and_loses_no_data(stack):
    marks.write(stack, "before the supervisor died")
    assert len(stack.all_processes()) >= 15  # among them web workers, Celery's pools, PostgreSQL's own

    stack.signal(signal.SIGKILL)

    assert not stack.wait_until_gone()
    assert not (stack.var / "stack.json").exists()
    assert marks.has(stack.start(), "before the supervisor died")


def test_killing_make_ends_what_it_started(stack):
    stack.stop()
    made = RunningStack(stack.var, command=("make", "up")).start()
    assert made.info["pids"]["supervisor"] != made.pid

    made.signal(signal.SIGKILL)

    assert not made.wait_until_gone()


# --- Faults ------------------------------------------------------------------------------------------------


def test_a_taken_port_is_told(stack, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = stack.run("up", PORT=str(port), EVERYCENT_VAR_DIR=str(tmp_path))
    assert done.returncode == 1
    assert f"Port {port} is taken" in one_line(done.stderr)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://u:secret@127.0.0.1/x", "postgresql://"),
        ("postgresql://u:secret@127.0.0.1:9/x", "refused"),
        ("postgresql://everycent:secret@{server}/everycent", "password authentication failed"),
    ],
)
def test_a_wrong_database_url_is_told(stack, tmp_path, url, said):
    server = f"127.0.0.1:{postgres_port(stack)}"
    done = stack.run(
        "up", PORT=str(system.free_port()), EVERYCENT_VAR_DIR=str(tmp_path), DATABASE_URL=url.format(server=server)
    )
    assert done.returncode == 1
    assert "DATABASE_URL" in one_line(done.stderr)
    assert said in done.stderr
    assert "secret" not in done.stderr


def test_make_without_arguments_lists_what_can_be_done():
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("help", "up", "down", "reset", "test", "check", "fmt", "bench", "screenshots"):
        assert f"make {target}" in listed
