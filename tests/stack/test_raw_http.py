"""What no HTTP library sends: bytes on a socket, to the server that `make up` runs."""

import json
import socket
from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.stack.shop import Shop

pytestmark = pytest.mark.stack


@pytest.fixture
def shop(stack) -> Shop:
    return Shop(stack)


class Wire:
    """One connection to the web server."""

    def __init__(self, shop: Shop) -> None:
        url = urlsplit(shop.info["url"])
        self.host = url.netloc
        self.key = shop.info["operations_key"]
        self.socket = socket.create_connection((url.hostname or "", url.port or 80), timeout=10)
        self.reader = self.socket.makefile("rb")

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        self.socket.close()

    def head(self, target: str, *headers: str, method: str = "POST") -> bytes:
        lines = [
            f"{method} {target} HTTP/1.1",
            f"Host: {self.host}",
            f"Authorization: Bearer {self.key}",
            f"Idempotency-Key: {uuid4()}",
            "Content-Type: application/json",
            *headers,
        ]
        return "\r\n".join([*lines, "", ""]).encode()

    def send(self, *pieces: bytes) -> None:
        with suppress(OSError):  # it has answered, and hung up
            for piece in pieces:
                self.socket.sendall(piece)

    def end(self) -> None:
        """Nothing more is sent."""
        with suppress(OSError):  # it has hung up already
            self.socket.shutdown(socket.SHUT_WR)

    def answer(self) -> tuple[int, str]:
        """(status, the problem's code); the status is 0 where the server hung up without a word."""
        try:
            first = self.reader.readline()
            if not first:
                return 0, ""
            headers = {}
            while line := self.reader.readline().strip().decode().lower():
                name, _, value = line.partition(": ")
                headers[name] = value
            body = self.reader.read(int(headers.get("content-length", 0)))
        except ConnectionError:
            return 0, ""
        problem = json.loads(body) if "json" in headers.get("content-type", "") else {}
        return int(first.split()[1]), problem.get("code", "")


def chunked(*pieces: bytes) -> Iterable[bytes]:
    for piece in pieces:
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def test_a_body_in_chunks_is_read(shop):
    product = shop.sell(1)
    with Wire(shop) as wire:
        wire.send(wire.head(f"/api/v1/stock/{product}/restock", "Transfer-Encoding: chunked"))
        wire.send(*chunked(b'{"quan', b'tity": ', b"7}"))
        assert wire.answer() == (200, "")
        # The connection goes on, at the right place.
        wire.send(wire.head(f"/api/v1/stock/{product}", method="GET"))
        assert wire.answer() == (200, "")
    assert shop.shelf(product) == (8, 0)


@pytest.mark.parametrize("in_chunks", [True, False])
def test_a_body_of_megabytes_is_refused(shop, in_chunks):
    body = b'{"reference": "' + b"a" * 3_000_000 + b'"}'
    with Wire(shop) as wire:
        if in_chunks:
            wire.send(wire.head("/api/v1/stock/x/restock", "Transfer-Encoding: chunked"), *chunked(body[:9], body[9:]))
        else:
            wire.send(wire.head("/api/v1/stock/x/restock", f"Content-Length: {len(body)}"), body)
        assert wire.answer() == (400, "parameter_invalid")


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 12, 13",),
        ("Content-Length: -5",),
        ("Content-Length: x",),
        ("Content-Length: 3", "Content-Length: 4"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("X-Odd: a\0b",),
        ("X-Long: " + "x" * 700_000,),
        ("X-Many: x",) * 2_000,
    ],
    ids=["two lengths in one", "negative", "no number", "two lengths", "two encodings", "NUL", "long", "many"],
)
def test_a_head_that_makes_no_sense_is_refused_by_the_server(shop, headers):
    with Wire(shop) as wire:
        wire.send(wire.head("/api/v1/stock/x/restock", *headers))
        wire.end()
        status, _ = wire.answer()
    assert status == 0 or 400 <= status < 500


def test_a_caller_that_hangs_up_in_the_middle_breaks_nothing(shop):
    product = shop.sell(1)
    with Wire(shop) as wire:
        wire.send(wire.head(f"/api/v1/stock/{product}/restock", "Content-Length: 100"), b'{"quantity": 7')
    with Wire(shop) as wire:
        wire.send(
            wire.head(f"/api/v1/stock/{product}/restock", "Transfer-Encoding: chunked"), b"e\r\n" + b'{"quantity"'
        )
    assert shop.shelf(product) == (1, 0)


def test_a_key_in_other_letters_is_no_key(shop):
    with Wire(shop) as wire:
        wire.key = "ek_💥_ä"
        wire.send(wire.head("/api/v1/products", method="GET"))
        assert wire.answer() == (401, "key_invalid")
