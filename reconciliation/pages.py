"""Pages of a statement file: its rows as they stand, some at a time, under its header; what is kept of it as a voucher. Pure.

A row is what PostgreSQL's COPY takes for one (CopyReadLine): it ends at a line break outside of quotes, and every quotation mark
opens or closes, wherever in a cell it stands. Python's csv knows another grammar, and would count other rows.
"""

import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

_ROWS = 1000
LONGEST_ROW: Final = 1024 * 1024  # bytes; it is in memory as a whole
_BYTES = LONGEST_ROW  # of a page
_FASTEST = 1  # of zlib's levels: the others take longer than all else that is done with a row
# A delimiter; text without quotes; what stands in quotes, in which two of them are one.
_PIECES = re.compile(r'(,)|([^",]+)|"((?:[^"]+|"")*)(?:"|$)')


class RowWithoutEnd(ValueError):
    """A row is longer than any row is: most likely a quotation mark that does not close."""

    def __init__(self, line: int) -> None:
        self.line = line  # on which it begins, from 0
        super().__init__(f"a row of more than {LONGEST_ROW} bytes: does a quotation mark not close?")


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a file."""

    text: bytes  # as it stands
    rows: int


def pages_of(file: BinaryIO) -> Iterator[Page]:
    """What is left of the file, in pages. Raises RowWithoutEnd."""
    rows: list[bytes] = []
    size = 0
    for row in _rows(file):
        rows.append(row)
        size += len(row)
        if len(rows) == _ROWS or size >= _BYTES:
            yield Page(b"".join(rows), len(rows))
            rows.clear()
            size = 0
    if rows:
        yield Page(b"".join(rows), len(rows))


def _rows(file: BinaryIO) -> Iterator[bytes]:
    number = began = 0  # lines
    parts: list[bytes] = []
    size = 0
    quoted = False
    while line := file.readline(LONGEST_ROW):
        if b'"' in line and line.count(b'"') & 1:
            quoted = not quoted
        is_whole = line.endswith(b"\n")
        number += is_whole
        if is_whole and not quoted and not parts:
            yield line
            began = number
            continue
        parts.append(line)
        size += len(line)
        if is_whole and not quoted:
            yield b"".join(parts)
            began = number
            parts.clear()
            size = 0
        elif size >= LONGEST_ROW:
            raise RowWithoutEnd(began)
    if parts:
        yield b"".join(parts)


def voucher(header: bytes, page: Page) -> tuple[bytes, bytes]:
    """(SHA-256 of a page below the file's header; both of them, compressed)."""
    text = header + page.text
    return hashlib.sha256(text).digest(), zlib.compress(text, _FASTEST)


def rows_of(body: bytes) -> Iterator[dict[str, str]]:
    """The rows of a kept page, in their order, by the header's columns."""
    rows = _rows(io.BytesIO(zlib.decompress(body)))
    columns = [name.strip() for name in _cells(next(rows).decode("utf-8-sig"))]
    for row in rows:
        yield dict(zip(columns, _cells(row.decode()), strict=False))


def _cells(row: str) -> list[str]:
    cells = [""]
    for delimiter, plain, quoted in _PIECES.findall(row.removesuffix("\n").removesuffix("\r")):
        if delimiter:
            cells.append("")
        else:
            cells[-1] += plain or quoted.replace('""', '"')
    return cells
