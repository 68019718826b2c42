"""A web server as the product runs it, and clients that cost next to nothing: they share the machine with it."""

import contextlib
import http.client
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.harness import family_cpu_s
from config.devstack import stack, system

HOST = stack.HOST
CLIENTS = 16


@dataclass(frozen=True)
class Server:
    """A running server; `cpu_s` is what its processes have used so far."""

    pid: int
    port: int

    def cpu_s(self) -> float:
        return family_cpu_s(self.pid)


@contextlib.contextmanager
def product() -> Iterator[Server]:
    """granian with the product's own options."""
    port = system.free_port()
    with _serving([sys.executable, *stack.web_command(port)], port) as server:
        yield server


@contextlib.contextmanager
def plain(application: str) -> Iterator[Server]:
    """gunicorn's sync workers, as most would begin with: as many as the product has."""
    port = system.free_port()
    options = ["--workers", str(stack.WEB_WORKERS), "--worker-class", "sync", "--bind", f"{HOST}:{port}"]
    command = [sys.executable, "-m", "gunicorn", *options, "--log-level", "warning", application]
    with _serving(command, port) as server:
        yield server


@contextlib.contextmanager
def _serving(command: Sequence[str], port: int) -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as metrics:
        environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": metrics, "MALLOC_ARENA_MAX": "2"}
        environment.setdefault("SECRET_KEY", secrets.token_urlsafe(48))
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if not system.wait_until(lambda: _answers(port), timeout_s=60):
                raise SystemExit(f"error: {' '.join(command[:4])} does not answer")
            yield Server(process.pid, port)
        finally:
            process.terminate()
            process.wait(30)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection(HOST, port, timeout=5)
        connection.request("GET", "/livez")
        return connection.getresponse().status < 500
    return False


# --- Clients ----------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What clients were answered: how often which status, and after how many seconds each."""

    statuses: Counter[int] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)


def request(method: str, path: str, key: str, *, body: bytes = b"", headers: str = "") -> bytes:
    """The bytes of a request that keeps its connection."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {key}\r\n{headers}"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def closed_loop(server: Server, make: Callable[[], bytes], *, requests: int, clients: int = CLIENTS) -> Seen:
    """So many requests, each client sending its next one as soon as it is answered."""
    return _together(server, make, requests=requests, clients=clients, pause_s=0.0)


def open_loop(
    server: Server, make: Callable[[], bytes], *, requests: int, per_s: float, clients: int = CLIENTS
) -> Seen:
    """Requests at a rate, whatever the answers take: a late answer is counted from when it should have been asked for."""
    return _together(server, make, requests=requests, clients=clients, pause_s=clients / per_s)


def _together(server: Server, make: Callable[[], bytes], *, requests: int, clients: int, pause_s: float) -> Seen:
    seen, lock = Seen(), threading.Lock()
    began = time.perf_counter() + 0.05

    def client(number: int) -> None:
        line, statuses, latencies = _Line(server.port), Counter[int](), list[float]()
        due = began + pause_s * number / clients
        for _ in range(requests // clients):
            text = make()
            if pause_s:
                time.sleep(max(0.0, due - time.perf_counter()))
            asked = due if pause_s else time.perf_counter()
            statuses[line.ask(text)] += 1
            latencies.append(time.perf_counter() - asked)
            due += pause_s
        line.close()
        with lock:
            seen.statuses.update(statuses)
            seen.latencies_s += latencies

    threads = [threading.Thread(target=client, args=[number]) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


class _Line:
    """A connection, made anew where the server closes it (gunicorn's sync workers do, after each answer)."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def ask(self, text: bytes) -> int:
        """The status of the answer."""
        if self._socket is None:
            self._socket = socket.create_connection((HOST, self._port), timeout=30)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(text)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._more()
        head, _, body = answer.partition(b"\r\n\r\n")
        head = head.lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += self._more()
        if b"connection: close" in head:
            self.close()
        return int(head[9:12])

    def _more(self) -> bytes:
        assert self._socket
        part = self._socket.recv(65_536)
        if not part:
            raise ConnectionError("the server closed the connection in the middle of an answer")
        return part

    def close(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None
