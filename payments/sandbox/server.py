"""HTTP/1.1 with keep-alive on sockets of our own: small, quick, and able to misbehave (hang, reset) when told to."""

import select
import socket
import socketserver
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import BinaryIO, Literal
from urllib.parse import unquote

MAX_LINE_BYTES = 65_536
MAX_HEADERS = 100
MAX_BODY_BYTES = 1_048_576
# How long a request hangs whose caller does not give up first; the product's read timeout is 10 s.
HANG_S = 30.0


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: str
    headers: dict[str, str]  # lower-case names
    body: bytes = b""

    @property
    def closes(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    # Instead of answering: keep the caller waiting, or reset the connection.
    instead: Literal["hang", "reset"] | None = None


class MalformedRequestError(Exception):
    """The bytes are not HTTP, or too many."""


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], app: Callable[[Request], Answer]) -> None:
        """Raises OSError when the address cannot be had."""
        self.app = app
        super().__init__(address, _Connection)


class _Connection(socketserver.BaseRequestHandler):
    server: Server
    request: socket.socket

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = self.request.makefile("rb")
        try:
            while self._serve_one(reader):
                pass
        except (ConnectionError, TimeoutError):
            pass  # the caller went away; what was committed stays committed
        finally:
            reader.close()

    def _serve_one(self, reader: BinaryIO) -> bool:
        """True when another request may follow on this connection."""
        try:
            request = _read(reader, self.request)
        except MalformedRequestError as error:
            self._send(Answer(400, f'{{"error": {{"message": "{error}"}}}}'.encode()), last=True)
            return False
        if request is None:
            return False
        answer = self.server.app(request)
        if answer.instead == "reset":
            # Closing with a linger of zero sends RST instead of FIN.
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.request.close()
            return False
        if answer.instead == "hang":
            _wait_until_closed(self.request)
            return False
        self._send(answer, last=request.closes)
        return not request.closes

    def _send(self, answer: Answer, *, last: bool) -> None:
        """Head and body in one write: two small ones would wait for each other's acknowledgement."""
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}", "Server: everycent-sandbox"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        lines += ["Content-Type: application/json", f"Content-Length: {len(answer.body)}"]
        if last:
            lines.append("Connection: close")
        self.request.sendall("\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + answer.body)


def _read(reader: BinaryIO, connection: socket.socket) -> Request | None:
    """The next request; None when the caller has closed. Raises MalformedRequestError."""
    line = _line(reader)
    if not line:
        return None
    words = line.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise MalformedRequestError("not an HTTP/1.1 request")
    headers: dict[str, str] = {}
    while header := _line(reader):
        name, colon, value = header.partition(":")
        if not colon or len(headers) >= MAX_HEADERS:
            raise MalformedRequestError("bad headers")
        headers[name.strip().lower()] = value.strip()
    if words[2] == "HTTP/1.0":
        headers["connection"] = "close"
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers or not length.isdigit() or int(length) > MAX_BODY_BYTES:
        raise MalformedRequestError("a body needs a Content-Length of at most 1 MiB")
    if headers.get("expect", "").lower() == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = reader.read(int(length))
    if len(body) < int(length):
        return None
    path, _, query = words[1].partition("?")
    return Request(words[0], unquote(path), query, headers, body)


def _line(reader: BinaryIO) -> str:
    line = reader.readline(MAX_LINE_BYTES)
    if len(line) >= MAX_LINE_BYTES:
        raise MalformedRequestError("a line is too long")
    return line.decode("latin-1").rstrip("\r\n")


def _wait_until_closed(connection: socket.socket) -> None:
    end = time.monotonic() + HANG_S
    while (left := end - time.monotonic()) > 0:
        readable, _, _ = select.select([connection], [], [], left)
        if readable and not connection.recv(1024):
            return
