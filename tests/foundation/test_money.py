import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import InvalidInput
from foundation.money import EXPONENTS, UnknownCurrency, exponent, format_minor, parse_major, share

amounts = st.integers(-(10**12), 10**12)
currencies = st.sampled_from(sorted(EXPONENTS))


@pytest.mark.parametrize(
    ("amount_minor", "currency", "text"),
    [
        (123456, "usd", "$1,234.56"),
        (-500, "jpy", "−¥500"),
        (1500, "kwd", "1.500 KWD"),
        (0, "eur", "€0.00"),
        (100, "isk", "1.00 ISK"),  # counted in hundredths by the provider
    ],
)
def test_amounts_are_shown_with_their_currencys_decimals(amount_minor, currency, text):
    assert format_minor(amount_minor, currency) == text


def test_an_unknown_currency_is_refused():
    with pytest.raises(UnknownCurrency):
        exponent("xxx")


@pytest.mark.parametrize("text", ["1.234", "abc", "NaN", "Infinity", "1e-9"])
def test_what_is_no_amount_of_the_currency_is_refused(text):
    with pytest.raises(InvalidInput):
        parse_major(text, "usd")


@given(amounts, currencies)
def test_reading_back_what_was_written_gives_the_same_amount(amount_minor, currency):
    digits = EXPONENTS[currency]
    sign = "-" if amount_minor < 0 else ""
    whole, rest = divmod(abs(amount_minor), 10**digits)
    text = f"{sign}{whole}.{rest:0{digits}}" if digits else f"{sign}{whole}"
    assert parse_major(text, currency) == amount_minor


@given(amounts)
def test_a_share_of_everything_is_everything_and_of_nothing_nothing(amount_minor):
    assert share(amount_minor, 10_000) == amount_minor
    assert share(amount_minor, 0) == 0


@pytest.mark.parametrize(
    ("amount_minor", "bp", "expected"), [(12345, 5000, 6172), (12347, 5000, 6174), (1, 5000, 0), (3, 5000, 2)]
)
def test_a_share_is_rounded_half_to_even(amount_minor, bp, expected):
    assert share(amount_minor, bp) == expected
