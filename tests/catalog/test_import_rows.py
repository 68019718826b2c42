"""A row of the desk's export is read as what it was."""

import io
import json

from hypothesis import given
from hypothesis import strategies as st

from catalog import imports
from catalog.types import EXPORT_COLUMNS
from foundation.exports import csv_lines

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30).map(str.strip)
LARGEST = 2**53 - 1  # what every reader of JSON holds exactly
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-LARGEST, LARGEST) | TEXTS | st.floats(-LARGEST, LARGEST),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(TEXTS.filter(bool), TEXTS, TEXTS, st.dictionaries(TEXTS, JSON, max_size=3), st.booleans())
def test_a_row_is_read_as_it_was_exported(title, author, description, metadata, published):
    cells = ["a", None, title, author, 1500, "usd", published, description, "", json.dumps(metadata), "Corner"]
    file = io.StringIO("".join(csv_lines(EXPORT_COLUMNS, [cells])), newline="")
    (row,) = imports.read(file)
    assert row.problem == ""
    assert (row.title, row.author, row.description or "") == (title, author, description)
    assert (row.metadata, row.published, row.price_minor) == (metadata, published, 1500)
