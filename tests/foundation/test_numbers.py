"""Amounts follow the browser's language, on the page and in its forms."""

import threading

import pytest

from foundation import numbers
from foundation.errors import InvalidInput


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ("en-US,en;q=0.9", "€1,234.50"),
        ("de-DE,de;q=0.9,en;q=0.8", "1.234,50 €"),
        ("fr", "1\u00a0234,50 €"),
        ("ja", "€1,234.50"),
        ("", "€1,234.50"),
        ("*", "€1,234.50"),
        ("xx-YY", "€1,234.50"),
        ("xx, de;q=0.5", "1.234,50 €"),
        ("de;q=nonsense,,;;", "€1,234.50"),
        ("a" * 5_000, "€1,234.50"),
    ],
)
def test_amounts_are_shown_in_the_first_language_that_is_known(header, shown):
    with numbers.written_for(header):
        assert numbers.show(123450, "eur") == shown
        assert numbers.read(shown.strip("€ "), "eur") == 123450


def test_counts_and_examples_follow_too():
    with numbers.written_for("de"):
        assert numbers.count(-1234567) == "−1.234.567"
        assert str(numbers.explained("As {}.")) == "As 12,34."
        with pytest.raises(InvalidInput, match="write it as 12,34"):
            numbers.read("12.34", "usd")
    assert numbers.example() == "12.34"


def test_one_readers_language_is_not_anothers():
    seen = {}

    def other() -> None:
        seen["other"] = numbers.show(123450, "usd")

    with numbers.written_for("de"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert numbers.show(123450, "usd") == "1.234,50 $"
    assert seen == {"other": "$1,234.50"}
