"""Starts children, keeps them running, and leaves none behind."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from config.devstack.system import StackError, is_alive, last_words, signal_group, spawn, wait_until

# A child that dies this often this fast will not get well by being started again.
CRASH_LOOP_DEATHS = 5
CRASH_LOOP_WINDOW_S = 30
BACKOFF_FIRST_S = 0.2
BACKOFF_LONGEST_S = 5.0
# A worker may be in the middle of a call to the provider, which takes 13 s at most.
GRACE_S = 15
READY_TIMEOUT_S = 60  # a cold start on a small, busy machine
# How often to look at what no signal announces: readiness, and a `make` that was killed.
STARTING_TICK_S = 0.05
WATCHING_TICK_S = 0.5


class Stopped(Exception):
    """A signal, or the death of `make`, asked the stack to end."""


@dataclass
class Child:
    """One process that has to run. `role` is its name in stack.json's `pids`."""

    name: str
    role: str
    command: Sequence[str]
    log: Path
    is_ready: Callable[[int], bool]
    env: Mapping[str, str]
    stop_signal: signal.Signals = signal.SIGTERM
    become: Callable[[], None] | None = None
    process: "subprocess.Popen[bytes] | None" = None
    ready: bool = False
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=CRASH_LOOP_DEATHS))
    failed_starts: int = 0
    restart_at: float = 0.0

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None


def _make() -> int | None:
    """The pid of the `make` that started us. Other programs leave its MAKELEVEL in our environment when make started them,
    and block signals for reasons of their own: Python does while it starts a process.
    """
    parent = os.getppid()
    try:
        name = Path(f"/proc/{parent}/comm").read_text().strip()
    except OSError:
        return None
    return parent if name in ("make", "gmake") else None


class Supervisor:
    """Owns the children of one stack. Single-threaded: everything happens in `_tick`."""

    def __init__(self, *, cwd: Path, stack_file: Path, lock_fd: int, say: Callable[[str], None]) -> None:
        self.children: list[Child] = []
        self.on_change: Callable[[], None] = lambda: None
        self._cwd = cwd
        self._stack_file = stack_file
        self._lock_fd = lock_fd
        self._say = say
        self._told_to_stop = False
        self._in_a_hurry = False
        self._running = False  # from here on a death is answered by a restart
        self._made_by = _make()
        self._listen_to_signals()
        self._start_reaper()

    # --- Commands -----------------------------------------------------------------------------------

    def start(self, children: Iterable[Child]) -> None:
        for child in children:
            self.children.append(child)
            self._spawn(child)

    def wait_ready(self, children: Sequence[Child]) -> None:
        """Until all answer. A child that dies before that, or takes too long, is an error."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not all(child.ready for child in children):
            self._tick(STARTING_TICK_S)
            if time.monotonic() > deadline:
                late = next(child for child in children if not child.ready)
                raise StackError(f"{late.name} does not answer after {READY_TIMEOUT_S} s; see {late.log}")

    def run(self, command: Sequence[str], *, env: Mapping[str, str], log: Path | None) -> int:
        """Run a job that comes to an end by itself, watching the children meanwhile; returns its exit code.

        Without a log it speaks on our terminal.
        """
        job = spawn(command, log=log, env=env, cwd=self._cwd)
        self._tell_reaper(f"+{job.pid} {int(signal.SIGTERM)}")
        try:
            while job.poll() is None:
                self._tick(STARTING_TICK_S)
        finally:
            signal_group(job.pid, signal.SIGKILL)
            job.wait()
            self._tell_reaper(f"-{job.pid}")
        return job.returncode

    def watch(self) -> None:
        """Keep the children running until somebody ends the stack."""
        self._running = True
        while True:
            self._tick(WATCHING_TICK_S)

    def stop(self) -> None:
        """In reverse order of their start, role by role; whoever does not go in time is killed."""
        while self.children:
            role = self.children[-1].role
            group = [child for child in self.children if child.role == role]
            self.children = [child for child in self.children if child.role != role]
            for child in group:
                if child.process and child.process.poll() is None:
                    child.process.send_signal(child.stop_signal)
            deadline = time.monotonic() + GRACE_S
            while any(child.process and child.process.poll() is None for child in group):
                self._sleep(STARTING_TICK_S)
                if self._in_a_hurry or time.monotonic() > deadline:
                    break
            for child in group:
                self._bury(child)
        self._reaper_pipe.close()
        self._reaper.wait()

    # --- The loop -----------------------------------------------------------------------------------

    def _tick(self, seconds: float) -> None:
        """Wait a little or until a signal, then look after everybody."""
        self._sleep(seconds)
        if self._told_to_stop or self._make_is_ending():
            raise Stopped
        if self._reaper.poll() is not None:
            self._start_reaper()
        for child in self.children:
            if child.process is None:
                if time.monotonic() >= child.restart_at:
                    self._spawn(child)
                    self.on_change()
            elif child.process.poll() is not None:
                self._answer_death(child)
                self.on_change()
            elif not child.ready and child.is_ready(child.process.pid):
                child.ready = True
                child.failed_starts = 0

    def _sleep(self, seconds: float) -> None:
        if select.select([self._wakeup], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeup, 4096)

    def _spawn(self, child: Child) -> None:
        child.ready = False
        child.process = spawn(
            child.command,
            log=child.log,
            env=child.env,
            cwd=self._cwd,
            death_signal=child.stop_signal,
            become=child.become,
        )
        self._tell_reaper(f"+{child.process.pid} {int(child.stop_signal)}")

    def _answer_death(self, child: Child) -> None:
        assert child.process is not None
        how = _how(child.process.returncode)
        if not self._running and not child.ready:
            raise StackError(f"{child.name} does not start ({how}): {last_words(child.log)} (see {child.log})")
        now = time.monotonic()
        child.failed_starts += not child.ready
        child.deaths.append(now)
        self._bury(child)
        recent = len(child.deaths) == CRASH_LOOP_DEATHS and now - child.deaths[0] < CRASH_LOOP_WINDOW_S
        if recent or child.failed_starts >= CRASH_LOOP_DEATHS:
            raise StackError(
                f"{child.name} died {CRASH_LOOP_DEATHS} times in a row ({how}): {last_words(child.log)} (see {child.log})"
            )
        deaths = sum(now - death < CRASH_LOOP_WINDOW_S for death in child.deaths)
        delay_s = min(BACKOFF_FIRST_S * 2 ** (deaths - 1), BACKOFF_LONGEST_S)
        child.restart_at = now + delay_s
        self._say(f"{child.name} died ({how}) and is started again.")

    def _bury(self, child: Child) -> None:
        """Nothing of a dead child's session may go on: an orphaned web worker would keep the port and serve."""
        if child.process is None:
            return
        signal_group(child.process.pid, signal.SIGKILL)
        child.process.wait()
        self._tell_reaper(f"-{child.process.pid}")
        child.process = None
        child.ready = False

    # --- Signals, make and the reaper ------------------------------------------------------------------

    def _listen_to_signals(self) -> None:
        self._wakeup, write_end = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to be woken
        signal.signal(signal.SIGTERM, self._on_stop_signal)
        signal.signal(signal.SIGINT, self._on_stop_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            signal.signal(signal.SIGHUP, self._on_stop_signal)

    def _on_stop_signal(self, number: int, _frame: object) -> None:
        # A second Ctrl-C means "now"; a second SIGTERM may be make's echo of the first.
        self._in_a_hurry |= self._told_to_stop and number == signal.SIGINT
        self._told_to_stop = True

    def _make_is_ending(self) -> bool:
        """Whether the `make` that started us was killed, or waits for us after a signal that only it received."""
        if self._made_by is None:
            return False
        if os.getppid() != self._made_by:
            return True
        try:
            status = Path(f"/proc/{self._made_by}/status").read_text()
        except OSError:
            return False
        blocked = int(status.split("SigBlk:")[1].split()[0], 16)
        # make blocks the signal that it is handling while it waits for its children.
        return any(blocked >> (number - 1) & 1 for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT))

    def _start_reaper(self) -> None:
        read_end, write_end = os.pipe()
        self._reaper_pipe = os.fdopen(write_end, "w")
        self._reaper = subprocess.Popen(
            [sys.executable, "-m", "config.devstack.reaper", str(self._stack_file)],
            stdin=read_end,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._cwd,
            start_new_session=True,
            pass_fds=[self._lock_fd],
        )
        os.close(read_end)
        for child in self.children:
            if child.process:
                self._tell_reaper(f"+{child.process.pid} {int(child.stop_signal)}")

    def _tell_reaper(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it was killed; the next tick starts another
            print(line, file=self._reaper_pipe, flush=True)


def _how(returncode: int) -> str:
    if returncode < 0:
        return signal.Signals(-returncode).name
    return f"exit code {returncode}"


def stop_process(pid: int, *, timeout_s: float) -> bool:
    """Ask a supervisor that is not our child to stop; returns whether it did."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return True
    return wait_until(lambda: not is_alive(pid), timeout_s=timeout_s)
