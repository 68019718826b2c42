"""ISBNs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import isbn
from catalog.errors import InvalidIsbn


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("0439023483", "9780439023481"),
        ("0-439-02348-3", "9780439023481"),
        ("043965548X", "9780439655484"),
        ("0-439-65548-x", "9780439655484"),
        ("978-0-439-02348-1", "9780439023481"),
        (" 978 0 439 02348 1 ", "9780439023481"),
        ("979-10-323-0569-0", "9791032305690"),
    ],
)
def test_all_forms_have_one_normal_form(text, normal):
    assert isbn.normalise(text) == normal


@pytest.mark.parametrize(
    "text",
    ["", "x", "0439023482", "04390234830", "9780439023482", "9770439023481", "043902348", "X439023483", "٠٤٣٩٠٢٣٤٨٣"],
)
def test_what_is_no_isbn_is_refused(text):
    with pytest.raises(InvalidIsbn):
        isbn.normalise(text)


@given(st.integers(0, 999_999_999).map("{:09}".format), st.integers(0, 8), st.integers(1, 9))
def test_one_wrong_digit_is_always_noticed(nine, place, change):
    right = isbn.ten_digits(f"978{nine}0")
    assert isbn.ten_digits(isbn.normalise(right)) == right
    wrong = right[:place] + str((int(right[place]) + change) % 10) + right[place + 1 :]
    with pytest.raises(InvalidIsbn):
        isbn.normalise(wrong)
