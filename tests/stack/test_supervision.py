"""The supervisor on a stack that starts at once (tests/stack/tiny.py): how it ends, restarts and gives up."""

import os
import signal
import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from config.devstack import system
from config.devstack.supervisor import WATCHING_TICK_S
from tests.stack import marks
from tests.stack_process import RunningStack

pytestmark = pytest.mark.xdist_group("tiny stack")

TINY = (sys.executable, "-m", "tests.stack.tiny", "up")


@pytest.fixture(scope="module")
def _one_tiny(tmp_path_factory):
    running = RunningStack(tmp_path_factory.mktemp("tiny") / "var", command=TINY, TINY_CHILD="with_grandchild")
    yield running
    running.stop()


@pytest.fixture
def tiny(_one_tiny):
    """A running tiny stack whose child has a child that ignores every polite signal; started again if a test ended it."""
    return _one_tiny.start()


def one_line(text: str) -> str:
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, text
    assert "Traceback" not in text
    return errors[0]


def reapers_of(stack: RunningStack) -> set[int]:
    return {pid for pid in stack.all_processes() if b"devstack.reaper" in Path(f"/proc/{pid}/cmdline").read_bytes()}


# --- The end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_its_end_leaves_no_process_and_loses_no_data(tiny, number):
    marks.write(tiny, number.name)
    assert len(tiny.all_processes()) > 8  # supervisor, reaper, child, grandchild, valkey, postgres and its own

    code = tiny.signal(number)

    assert code == (-number if number == signal.SIGKILL else 0)
    assert not tiny.wait_until_gone()
    assert not (tiny.var / "stack.json").exists()
    assert marks.has(tiny.start(), number.name)


def test_the_end_of_supervisor_and_reaper_leaves_nothing_that_the_next_up_does_not_end(tiny):
    marks.write(tiny, "both")

    (reaper,) = reapers_of(tiny)
    os.kill(reaper, signal.SIGKILL)
    tiny.signal(signal.SIGKILL)

    # The kernel tells the direct children; the grandchild that ignores signals is left to the next start.
    assert marks.has(tiny.start(), "both")
    grandchildren = [
        pid for pid in system.leftovers(tiny.var) if b"SIG_IGN" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(grandchildren) == 2  # one child and its own, both of the new stack
    assert "that a killed stack had left" in tiny.output.read_text()


def test_a_killed_reaper_is_replaced(tiny):
    (killed,) = reapers_of(tiny)
    os.kill(killed, signal.SIGKILL)
    tiny.wait_for(lambda: reapers_of(tiny) - {killed} != set())

    tiny.signal(signal.SIGKILL)

    assert not tiny.wait_until_gone()


def test_a_second_ctrl_c_ends_a_stubborn_child_at_once(tmp_path):
    stack = RunningStack(tmp_path / "var", command=TINY, TINY_CHILD="stubborn").start()
    os.kill(stack.pid, signal.SIGINT)
    stack.wait_for(lambda: "Stopping" in stack.output.read_text())
    os.kill(stack.pid, signal.SIGINT)
    assert stack.wait(timeout_s=8) == 0  # its grace is longer
    assert not stack.wait_until_gone(timeout_s=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_the_end_of_make_ends_it(tiny, tmp_path, number):
    tiny.stop()
    python = tmp_path / "python"  # the project's own Makefile, with the tiny stack in place of the whole one
    python.write_text(f"#!/bin/sh\nexec {' '.join(TINY)}\n")
    python.chmod(0o755)
    make_up = ("make", "-o", ".venv/.installed", "up", f"BIN={tmp_path}")
    made = RunningStack(tiny.var, command=make_up, TINY_CHILD="with_grandchild").start()
    assert made.info["pids"]["supervisor"] != made.pid

    try:
        made.signal(number)  # make alone: a terminal would signal the whole group
        assert not made.wait_until_gone()
    finally:
        made.kill()


def test_a_parent_that_blocks_signals_is_no_make_that_ends(tmp_path):
    """As Python does for a moment whenever it starts a process."""
    stack = RunningStack(tmp_path / "var", command=TINY, TINY_CHILD="with_grandchild", MAKELEVEL="1").start()
    some = {signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
    signal.pthread_sigmask(signal.SIG_BLOCK, some)
    try:
        time.sleep(2 * WATCHING_TICK_S)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, some)
    assert "Stopping" not in stack.output.read_text()
    stack.stop()


def test_down_stops_it_from_another_terminal(tiny):
    done = tiny.run("down")
    assert (done.returncode, done.stdout) == (0, "Stopped; the data are kept.\n")
    assert not tiny.wait_until_gone(timeout_s=1)
    assert tiny.run("down").stdout == "Nothing is running.\n"


def test_reset_forgets_the_data_and_nothing_else(tiny):
    (tiny.var / "mine.txt").write_text("kept")
    assert tiny.run("reset").returncode == 0
    assert sorted(path.name for path in tiny.var.iterdir()) == ["mine.txt", "supervisor.lock"]


# --- Restarts ----------------------------------------------------------------------------------------------


def test_nothing_of_a_dead_child_goes_on(tiny):
    child = tiny.info["pids"]["web"][0]
    before = {pid for pid in system.leftovers(tiny.var) if os.getpgid(pid) == child}
    assert len(before) == 2

    os.kill(child, signal.SIGKILL)

    tiny.wait_for(lambda: tiny.info["pids"]["web"] not in ([], [child]))
    assert not any(map(system.is_alive, before))


def test_a_crash_loop_ends_the_stack_with_one_line(tmp_path):
    stack = RunningStack(tmp_path / "var", command=TINY, TINY_CHILD="dies_later").start()
    assert stack.wait() == 1
    line = one_line(stack.output.read_text())
    assert "web died 5 times" in line
    assert "lost my hat" in line
    assert str(stack.var / "log" / "web.log") in line
    assert not stack.wait_until_gone(timeout_s=1)


def test_a_child_that_does_not_start_is_told_with_its_last_words(tmp_path):
    stack = RunningStack(tmp_path / "var", command=TINY, TINY_CHILD="dies_at_once")
    done = stack.run("up", program="tests.stack.tiny")
    assert done.returncode == 1
    assert "cannot find my hat" in one_line(done.stderr)
    assert not stack.wait_until_gone(timeout_s=1)


# --- Faults ------------------------------------------------------------------------------------------------


def test_a_second_up_says_where_the_first_one_is(tiny):
    second = tiny.run("up", PORT=str(system.free_port()))
    assert second.returncode == 1
    assert tiny.info["url"] in one_line(second.stderr)


@pytest.mark.parametrize(("name", "value"), [("PORT", "http"), ("PORT", "70000"), ("DEMO", "maybe")])
def test_a_wrong_option_is_told(tmp_path, name, value):
    done = RunningStack(tmp_path / "var").run("up", **{name: value})
    assert done.returncode == 1
    assert name in one_line(done.stderr)


def test_a_file_where_the_folder_should_be_is_told(tmp_path):
    (tmp_path / "var").write_text("")
    done = RunningStack(tmp_path / "var").run("up")
    assert done.returncode == 1
    assert str(tmp_path / "var") in one_line(done.stderr)


def test_a_taken_port_is_told(tiny, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = tiny.run("up", PORT=str(port), EVERYCENT_VAR_DIR=str(tmp_path))
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
def test_a_wrong_database_url_is_told(tiny, tmp_path, url, said):
    server = f"127.0.0.1:{urlsplit(tiny.info['database_url']).port}"
    done = tiny.run(
        "up", PORT=str(system.free_port()), EVERYCENT_VAR_DIR=str(tmp_path), DATABASE_URL=url.format(server=server)
    )
    assert done.returncode == 1
    assert "DATABASE_URL" in one_line(done.stderr)
    assert said in done.stderr
    assert "secret" not in done.stderr
