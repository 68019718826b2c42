"""The Stripe sandbox as a process of its own, for any test that needs a provider. Needs no database."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from config.devstack import system

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 10
STOP_TIMEOUT_S = 5
SECRET_KEY = "sk_test_sandbox"
PUBLISHABLE_KEY = "pk_test_sandbox"
WEBHOOK_SECRET = "whsec_sandbox"


class SandboxProcess:
    """A running sandbox; `restart()` after `stop()` or `kill()` comes back on the same port and storage."""

    def __init__(self, storage: Path, arguments: list[str]) -> None:
        self.storage = storage
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = arguments
        self.restart()

    def restart(self) -> None:
        command = [sys.executable, "-m", "payments.sandbox", "--port", str(self.port), "--storage", str(self.storage)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STRIPE_")}
        self.process = subprocess.Popen(
            [*command, *self._arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            # A killed test run leaves no process behind. Call from the main thread: the kernel watches the one that forked.
            preexec_fn=system.bound_to_us(signal.SIGKILL),  # noqa: PLW1509  (two system calls)
        )
        end = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/livez", timeout=1):
                    return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.kill()
                    raise RuntimeError(f"the sandbox did not start (exit {self.process.returncode})") from None
                time.sleep(0.02)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_S)

    def kill(self) -> None:
        """SIGKILL: what was committed must be there after `restart()`."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)

    def control(self, method: str, call: str, body: dict[str, Any] | None = None) -> Any:
        """`control("POST", "plant", {"kind": …})` → the JSON answer. Raises urllib.error.HTTPError on a refusal."""
        request = urllib.request.Request(
            f"{self.url}/_sandbox/{call}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def books(self) -> Any:
        return self.control("GET", "books")


def start_sandbox(
    tmp_path: Path,
    webhook_url: str | None = None,
    *,
    webhook_secret: str = WEBHOOK_SECRET,
    settle_after_s: float = 0,
    news_after_s: float = 0.2,
) -> SandboxProcess:
    """A sandbox on a free port with its storage in tmp_path, answering; the caller stops it."""
    arguments = [
        "--webhook-secret",
        webhook_secret,
        "--settle-after",
        str(settle_after_s),
        "--news-after",
        str(news_after_s),
    ]
    if webhook_url is not None:
        arguments += ["--webhook-url", webhook_url]
    return SandboxProcess(tmp_path / "sandbox.sqlite3", arguments)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
