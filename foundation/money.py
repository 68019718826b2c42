"""Money: integer minor units beside a currency. Never a float.

Exponents follow ISO 4217 as the provider applies it: https://docs.stripe.com/currencies#zero-decimal.
ISK and UGX have no decimals in ISO 4217, but the provider counts them in hundredths of whole units.
"""

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation

from foundation.errors import InvalidInput

_ZERO_DECIMALS = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"
_TWO_DECIMALS = (
    "aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bmd bnd bob brl bsd bwp byn bzd cad cdf chf cny cop crc cve "
    "czk dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gtq gyd hkd hnl htg huf idr ils inr isk jmd kes kgs khr kyd kzt "
    "lak lbp lkr lrd lsl mad mdl mkd mmk mnt mop mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd pab pen pgk php pkr pln "
    "qar ron rsd rub sar sbd scr sek sgd shp sle sos srd std szl thb tjs top try ttd twd tzs uah ugx usd uyu uzs wst xcd "
    "yer zar zmw"
)
_THREE_DECIMALS = "bhd jod kwd omr tnd"

EXPONENTS: dict[str, int] = {
    **dict.fromkeys(_ZERO_DECIMALS.split(), 0),
    **dict.fromkeys(_TWO_DECIMALS.split(), 2),
    **dict.fromkeys(_THREE_DECIMALS.split(), 3),
}
_SYMBOLS = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥"}

BASIS_POINTS = 10_000
MAX_AMOUNT_MINOR = 99_999_999_999  # one amount at the edges: twelve digits are a typing error, and the provider's limit


class UnknownCurrency(InvalidInput):
    """The currency is not one that we can count: use a lower-case ISO 4217 code."""

    code = "parameter_invalid"


@dataclass(frozen=True, slots=True, order=True)
class Money:
    """An amount in minor units (cents) of a lower-case ISO 4217 currency."""

    amount_minor: int
    currency: str

    def __str__(self) -> str:
        return format_minor(self.amount_minor, self.currency)


def exponent(currency: str) -> int:
    """How many decimals a currency has. Raises UnknownCurrency."""
    try:
        return EXPONENTS[currency]
    except KeyError:
        raise UnknownCurrency(f"Currency {currency!r} is not known: use a lower-case ISO 4217 code.") from None


def format_minor(amount_minor: int, currency: str) -> str:
    """`1234, "usd"` → `$12.34`; `-500, "jpy"` → `−¥500`; a currency without a short sign is named behind the amount."""
    decimals = exponent(currency)
    digits = f"{Decimal(abs(amount_minor)).scaleb(-decimals):,.{decimals}f}"
    sign = "−" if amount_minor < 0 else ""
    symbol = _SYMBOLS.get(currency)
    return f"{sign}{symbol}{digits}" if symbol else f"{sign}{digits} {currency.upper()}"


def parse_major(text: str, currency: str) -> int:
    """`"12.34", "usd"` → 1234. Raises InvalidInput for what is not a number or has too many decimals."""
    try:
        minor = Decimal(text).scaleb(exponent(currency))
    except InvalidOperation:
        raise InvalidInput(f"{text!r} is not an amount: write it as 12.34.") from None
    if not minor.is_finite() or minor != minor.to_integral_value():
        raise InvalidInput(f"{text!r} has more decimals than {currency.upper()} counts.")
    return int(minor)


def share(amount_minor: int, basis_points: int) -> int:
    """A share of an amount, rounded half to even: `share(12345, 5000)` → 6172."""
    return int((Decimal(amount_minor * basis_points) / BASIS_POINTS).to_integral_value(ROUND_HALF_EVEN))
