"""The whole stack as `make up` runs it, in a folder of its own on a free port, for tests from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from config.devstack import system

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 180  # the first start compresses the static files
# What tests point at their own servers and their own mailbox; the stack under test brings its own.
NOT_INHERITED = (
    "DATABASE_URL",
    "REDIS_URL",
    "STRIPE_API_BASE",
    "STRIPE_API_KEY",
    "EMAIL_URL",
    "DJANGO_SETTINGS_MODULE",
)
UP = (sys.executable, "-m", "config.devstack", "up")


class RunningStack:
    """Started on demand; `info` is what var/stack.json says at this moment."""

    def __init__(self, var: Path, *, command: tuple[str, ...] = UP, **environment: str) -> None:
        self.var = var
        self.port = system.free_port()
        self.output = var.with_name(f"{var.name}.output")
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def info(self) -> dict[str, Any]:
        described: dict[str, Any] = json.loads((self.var / "stack.json").read_text())
        return described

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        return kept | {"EVERYCENT_VAR_DIR": str(self.var), "PORT": str(self.port), "DEMO": "0"} | self._environment

    def start(self) -> "RunningStack":
        """Do nothing when it runs; else start it and wait until everything answers."""
        if self._process and self._process.poll() is None:
            return self
        self.output.unlink(missing_ok=True)
        self._process = system.spawn(self._command, log=self.output, env=self.environment, cwd=ROOT)
        self.wait_for(self._answers, timeout_s=START_TIMEOUT_S)
        return self

    def _answers(self) -> bool:
        """A stack.json that a killed stack left does not count."""
        try:
            return system.is_alive(self.info["pids"]["supervisor"])
        except FileNotFoundError:
            return False

    def wait_for(self, condition: Callable[[], bool], *, timeout_s: float = 30) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self._process is None or self._process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, f"not within {timeout_s} s; said: {self.output.read_text()}"
            time.sleep(0.1)

    def run(
        self, command: str, *, program: str = "config.devstack", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """`up`, `down` or `reset` beside the running stack, as from another terminal."""
        arguments = [sys.executable, "-m", program, command]
        return subprocess.run(
            arguments, cwd=ROOT, env=self.environment | environment, capture_output=True, text=True, timeout=120
        )

    def wait(self, *, timeout_s: float = 60) -> int:
        assert self._process
        return self._process.wait(timeout_s)

    def signal(self, number: signal.Signals) -> int:
        """Signal what was started (and nothing else); returns its exit code."""
        assert self._process
        self._process.send_signal(number)
        return self.wait()

    def stop(self) -> None:
        if self._process and self._process.poll() is None:
            self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """For tests that failed: nothing may outlive them."""
        for pid in self.all_processes():
            os.kill(pid, signal.SIGKILL)
        assert self._process
        self._process.kill()
        self._process.wait()

    def all_processes(self) -> set[int]:
        """Everything that belongs to this stack: supervisor, reaper, children and their children."""
        pids = set(system.leftovers(self.var))
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes()
                environment = (folder / "environ").read_bytes()
            except OSError:
                continue
            if (
                b"config.devstack" in command or b"tests.stack.tiny" in command
            ) and f"EVERYCENT_VAR_DIR={self.var}".encode() in environment:
                pids.add(int(folder.name))
        return {pid for pid in pids if system.is_alive(pid)}

    def wait_until_gone(self, *, timeout_s: float = 20) -> set[int]:
        """What is left after that time."""
        system.wait_until(lambda: not self.all_processes(), timeout_s=timeout_s)
        return self.all_processes()
