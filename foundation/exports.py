"""Tables as files: CSV, streamed row by row, with nothing in it that a spreadsheet would run.

A cell that begins with = + - @, a tab, a line break or NUL is quoted with an apostrophe; amounts are typed numbers, so
that a negative one stays one. Source: OWASP, "CSV Injection". Whoever reads such a file back takes the apostrophe off
again with `plain`; so that this is always right, a text that looks quoted already is quoted once more.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.http import StreamingHttpResponse

from foundation.money import plain_major

_RUNS_AS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\0")


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of money in a cell: a number in major units, `-1234.50`; empty for None."""

    minor: int | None
    currency: str

    def __str__(self) -> str:
        return "" if self.minor is None else plain_major(self.minor, self.currency)


Value = str | int | datetime | Amount | None


def cell(value: Value) -> str:
    """What stands in the file: numbers as they are, moments in RFC 3339, text that cannot run."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Amount):
        return str(value)
    text = value.replace("\0", "")
    return f"'{text}" if _looks_quoted_or_runs(value) else text


def plain(text: str) -> str:
    """What a text was before `cell` quoted it."""
    return text[1:] if text.startswith("'") and _looks_quoted_or_runs(text) else text


def _looks_quoted_or_runs(text: str) -> bool:
    return text.lstrip("'").startswith(_RUNS_AS_FORMULA)


class _Line:
    """A file whose write() hands the line back."""

    def write(self, line: str) -> str:
        return line


def csv_lines(header: Sequence[str], rows: Iterable[Sequence[Value]]) -> Iterator[str]:
    """The file, line by line; the rows are read as they are asked for."""
    writer = csv.writer(_Line())
    yield writer.writerow(header)
    for row in rows:
        yield writer.writerow([cell(value) for value in row])


def csv_response(name: str, header: Sequence[str], rows: Iterable[Sequence[Value]]) -> StreamingHttpResponse:
    """A download, streamed: its size does not matter. `name` without the ending."""
    return StreamingHttpResponse(
        csv_lines(header, rows),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"', "Cache-Control": "no-store"},
    )
