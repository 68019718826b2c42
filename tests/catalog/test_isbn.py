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


BODIES = st.tuples(st.sampled_from(["978", "979"]), st.integers(0, 999_999_999)).map("{0[0]}{0[1]:09}".format)


def with_check_digit(twelve: str) -> str:
    """By ISO 2108 in other words than ours: the weighted sum of all thirteen is a multiple of ten."""
    (right,) = [
        digit
        for digit in "0123456789"
        if sum(int(one) * (1, 3)[place % 2] for place, one in enumerate(twelve + digit)) % 10 == 0
    ]
    return twelve + right


@given(BODIES, st.integers(3, 12), st.integers(1, 9))
def test_one_wrong_digit_of_thirteen_is_always_noticed(twelve, place, change):
    right = with_check_digit(twelve)
    assert isbn.normalise(right) == right
    wrong = right[:place] + str((int(right[place]) + change) % 10) + right[place + 1 :]
    with pytest.raises(InvalidIsbn):
        isbn.normalise(wrong)


@given(BODIES, st.data())
def test_the_normal_form_is_one_whatever_was_typed(twelve, data):
    right = with_check_digit(twelve)
    forms = [right] + ([isbn.ten_digits(right)] if right.startswith("978") else [])
    typed = data.draw(st.sampled_from(forms))
    for place in data.draw(st.lists(st.integers(0, len(typed)), max_size=4)):
        typed = typed[:place] + data.draw(st.sampled_from("- \u2010\u2011\u2013")) + typed[place:]
    assert isbn.normalise(typed.lower()) == right


@given(st.integers(0, 999_999_999).map("{:09}".format), st.integers(0, 8))
def test_two_neighbours_of_ten_that_changed_places_are_noticed(nine, place):
    right = isbn.ten_digits(f"978{nine}0")
    swapped = right[:place] + right[place + 1] + right[place] + right[place + 2 :]
    if swapped != right:
        with pytest.raises(InvalidIsbn):
            isbn.normalise(swapped)
