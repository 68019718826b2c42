"""A file that is opened in a spreadsheet runs nothing, and its amounts are numbers."""

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.exports import Amount, cell, csv_lines, csv_response, plain

RUNS = "=+-@\t\r\n\0"


@given(st.text())
def test_no_text_begins_like_a_formula(text):
    assert not cell(text).startswith(tuple(RUNS))
    assert "\0" not in cell(text)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("-5", "'-5"),  # text, whatever it looks like
        (-5, "-5"),
        (Amount(-123450, "usd"), "-1234.50"),
        (Amount(-500, "jpy"), "-500"),
        (Amount(None, "usd"), ""),
        (None, ""),
        (True, "true"),
        ("a=b", "a=b"),
        ("'=1", "''=1"),  # or it would be read back as =1
        ("'tis", "'tis"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
    ],
)
def test_a_cell(value, shown):
    assert cell(value) == shown


@given(st.lists(st.lists(st.text(st.characters(exclude_characters="\0\r")), min_size=2, max_size=2), max_size=5))
def test_a_file_reads_back_row_by_row(rows):
    read = list(csv.reader(io.StringIO("".join(csv_lines(["one", "two"], rows)), newline="")))
    assert read[0] == ["one", "two"]
    assert [[plain(text) for text in row] for row in read[1:]] == rows


@given(st.text(st.sampled_from("'=+-@\t\rab"), max_size=6) | st.text(st.characters(exclude_characters="\0")))
def test_what_a_text_was_is_read_back(text):
    """Also one that looks quoted before it is."""
    assert plain(cell(text)) == text


def test_rows_are_read_as_they_are_asked_for():
    asked = []

    def rows():
        for number in range(3):
            asked.append(number)
            yield [number]

    stream = csv_response("name", ["n"], rows()).streaming_content
    assert isinstance(stream, Iterator)
    assert asked == []
    next(stream)
    next(stream)
    assert asked == [0]
