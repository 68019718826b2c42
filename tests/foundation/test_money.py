import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import InvalidInput
from foundation.money import (
    EXPONENTS,
    PLAIN,
    Style,
    UnknownCurrency,
    check_step,
    exponent,
    format_minor,
    parse_major,
    plain_major,
    share,
    step,
    whole_steps,
)

amounts = st.integers(-(10**17), 10**17)
currencies = st.sampled_from(sorted(EXPONENTS))
GERMAN, FRENCH, SPACELESS = Style(".", ","), Style("\u00a0", ","), Style("", ".")
styles = st.sampled_from([PLAIN, GERMAN, FRENCH, SPACELESS])


@pytest.mark.parametrize(
    ("amount_minor", "currency", "text"),
    [
        (123456, "usd", "$1,234.56"),
        (-500, "jpy", "−¥500"),
        (1500, "kwd", "1.500 KWD"),
        (0, "eur", "€0.00"),
        (-5, "usd", "−$0.05"),
        (100, "isk", "1.00 ISK"),  # counted in hundredths by the provider
    ],
)
def test_amounts_are_shown_with_their_currencys_decimals(amount_minor, currency, text):
    assert format_minor(amount_minor, currency) == text


@pytest.mark.parametrize(
    ("style", "text"),
    [(GERMAN, "−1.234,56 €"), (FRENCH, "−1\u00a0234,56 €"), (SPACELESS, "−€1234.56"), (PLAIN, "−€1,234.56")],
)
def test_amounts_are_shown_as_their_reader_writes_them(style, text):
    assert format_minor(-123456, "eur", style) == text


def test_an_unknown_currency_is_refused():
    with pytest.raises(UnknownCurrency):
        exponent("xxx")


# As https://docs.stripe.com/currencies lists them; UGX and ISK stand in its special cases.
ZERO = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"
THREE = "bhd jod kwd omr tnd"


def test_exponents_are_the_providers():
    assert {name for name, decimals in EXPONENTS.items() if decimals == 0} == set(ZERO.split())
    assert {name for name, decimals in EXPONENTS.items() if decimals == 3} == set(THREE.split())
    assert set(EXPONENTS.values()) == {0, 2, 3}
    assert (exponent("ugx"), exponent("isk"), exponent("huf"), exponent("twd")) == (2, 2, 2, 2)
    assert len(EXPONENTS) > 135


@pytest.mark.guard(13)
@pytest.mark.parametrize(
    ("currency", "charge"),
    [
        ("usd", 1),
        ("jpy", 1),
        ("kwd", 10),
        ("isk", 100),
        ("ugx", 100),
    ],
)
def test_what_the_provider_counts_in_whole_steps(currency, charge):
    assert step(currency) == charge
    check_step(7 * charge, currency)
    if charge > 1:
        with pytest.raises(InvalidInput, match="multiple"):
            check_step(7 * charge + 1, currency)


@given(amounts, currencies)
def test_whole_steps_are_the_nearest_below(amount_minor, currency):
    whole = whole_steps(amount_minor, currency)
    check_step(whole, currency)
    assert 0 <= amount_minor - whole < step(currency)


# --- Reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "1.234",
        "abc",
        "NaN",
        "Infinity",
        "1e-9",
        "1e3",
        "",
        "-",
        "1,2",
        "1,23,456",
        "1.2.3",
        "١٢",
        "0x10",
        "9" * 19,
        "1 234",
    ],
)
def test_what_is_no_amount_of_the_currency_is_refused(text):
    with pytest.raises(InvalidInput):
        parse_major(text, "usd")


@pytest.mark.parametrize(
    ("text", "style", "amount_minor"),
    [
        ("1,234.5", PLAIN, 123450),
        ("1.234,5", GERMAN, 123450),
        ("1.234", GERMAN, 123400),
        ("1 234,50", FRENCH, 123450),
        ("1\u202f234,50", FRENCH, 123450),
        ("12,50", GERMAN, 1250),
        (" −3.10 ", PLAIN, -310),
        ("1.2300", PLAIN, 123),
    ],
)
def test_an_amount_is_read_as_its_reader_writes_it(text, style, amount_minor):
    assert parse_major(text, "usd", style) == amount_minor


@pytest.mark.parametrize(
    ("text", "style"), [("12.50", GERMAN), ("1,234.50", GERMAN), ("12,50", PLAIN), ("1.234,50", PLAIN)]
)
def test_a_separator_of_another_language_is_refused_not_a_hundredfold(text, style):
    with pytest.raises(InvalidInput, match="write it as"):
        parse_major(text, "usd", style)


@given(amounts, currencies, styles)
def test_reading_back_what_was_shown_gives_the_same_amount(amount_minor, currency, style):
    shown = format_minor(amount_minor, currency, style)
    digits = shown.replace("$", "").replace("€", "").replace("£", "").replace("¥", "").replace(currency.upper(), "")
    assert parse_major(digits.strip(), currency, style) == amount_minor


@given(amounts, currencies)
def test_reading_back_what_was_written_for_machines_gives_the_same_amount(amount_minor, currency):
    text = plain_major(amount_minor, currency)
    assert parse_major(text, currency) == amount_minor
    assert "," not in text


# --- Arithmetic ---------------------------------------------------------------------------------------


@given(amounts)
def test_a_share_of_everything_is_everything_and_of_nothing_nothing(amount_minor):
    assert share(amount_minor, 10_000) == amount_minor
    assert share(amount_minor, 0) == 0


@pytest.mark.parametrize(
    ("amount_minor", "bp", "expected"),
    [(12345, 5000, 6172), (12347, 5000, 6174), (1, 5000, 0), (3, 5000, 2), (-3, 5000, -2)],
)
def test_a_share_is_rounded_half_to_even(amount_minor, bp, expected):
    assert share(amount_minor, bp) == expected


@given(amounts, st.integers(0, 10_000))
def test_a_share_is_the_nearest_whole_and_even_where_two_are_as_near(amount_minor, bp):
    whole = share(amount_minor, bp)
    off = abs(whole * 10_000 - amount_minor * bp)
    assert off <= 5_000
    assert off < 5_000 or whole % 2 == 0
    assert share(-amount_minor, bp) == -whole
