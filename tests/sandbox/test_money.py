import pytest

from payments.sandbox import cards, forms, money
from payments.sandbox.errors import InvalidParameter


@pytest.mark.parametrize(
    ("amount", "currency", "fee"),
    [
        (1000, "usd", 59),
        (2500, "usd", 103),  # 72.5 cents and 30: half goes up
        (50, "usd", 31),
        (1000, "jpy", 59),
        (1000, "kwd", 329),  # the fixed part has three decimals too
    ],
)
def test_the_fee_is_2_9_percent_rounded_half_up_plus_30(amount, currency, fee):
    assert money.processing_fee(amount, currency) == fee


def test_amounts_are_shown_with_the_currencys_decimals():
    assert [money.shown(1050, c) for c in ("usd", "jpy", "kwd")] == ["10.50 usd", "1050 jpy", "1.050 kwd"]


def test_every_declining_number_is_a_valid_card_number():
    for card in cards._CARDS:
        assert cards.by_number(card.number) == card


def test_forms_decode_brackets_lists_and_escapes():
    body = "a=1&m%5Bk%20x%5D=v%26w&e[]=p&e[]=q&t[1]=b&t[0]=a&created[gte]=5&card[billing][name]=J&empty="
    assert forms.decode(body) == {
        "a": "1",
        "m": {"k x": "v&w"},
        "e": ["p", "q"],
        "t": ["a", "b"],
        "created": {"gte": "5"},
        "card": {"billing": {"name": "J"}},
        "empty": "",
    }
    with pytest.raises(InvalidParameter):
        forms.decode("a=1&a[b]=2")
