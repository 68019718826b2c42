"""Pages of a statement file: its rows as they stand, some at a time, under its header; what is kept of it as a voucher. Pure."""

import csv
import hashlib
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_ROWS = 1000
_BYTES = 1024 * 1024  # of a page; and of a row, which would be in memory as a whole
_FASTEST = 1  # of zlib's levels: the others take longer than all else that is done with a row


class RowWithoutEnd(ValueError):
    """A row is longer than any row is: most likely a quotation mark that does not close."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a file."""

    text: bytes  # as it stands
    rows: int


def pages_of(file: BinaryIO) -> Iterator[Page]:
    """What is left of the file, in pages: a row ends at a line break outside of quotes, as PostgreSQL's COPY reads it.

    Raises RowWithoutEnd.
    """
    lines: list[bytes] = []
    rows = size = row_size = 0
    quoted = False
    while line := file.readline(_BYTES):
        lines.append(line)
        size += len(line)
        row_size += len(line)
        if b'"' in line and line.count(b'"') & 1:
            quoted = not quoted
        if quoted or not line.endswith(b"\n"):
            if row_size >= _BYTES:
                raise RowWithoutEnd(f"a row of more than {_BYTES} bytes: does a quotation mark not close?")
            continue
        rows, row_size = rows + 1, 0
        if rows == _ROWS or size >= _BYTES:
            yield Page(b"".join(lines), rows)
            lines.clear()
            rows = size = 0
    if lines:
        yield Page(b"".join(lines), rows + (row_size > 0))


def voucher(header: bytes, page: Page) -> tuple[bytes, bytes]:
    """(SHA-256 of a page below the file's header; both of them, compressed)."""
    text = header + page.text
    return hashlib.sha256(text).digest(), zlib.compress(text, _FASTEST)


def row_of(body: bytes, number: int) -> dict[str, str]:
    """A row of a kept page, counted from 1, by the header's columns."""
    records = csv.reader(io.StringIO(zlib.decompress(body).decode("utf-8-sig"), newline=""))
    columns = [name.strip() for name in next(records)]
    for place, record in enumerate(records, 1):
        if place == number:
            return dict(zip(columns, record, strict=True))
    raise LookupError(f"the page has no row {number}")
