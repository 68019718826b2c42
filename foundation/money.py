"""Money: integer minor units beside a currency. Never a float.

Exponents follow ISO 4217 as the provider applies it, and so do its special cases: https://docs.stripe.com/currencies
(sections "Zero-decimal currencies", "Three-decimal currencies", "Special cases"). ISK and UGX have no decimals in ISO
4217, but the provider counts them in hundredths, and only whole units of them. Its minimum charges are not here: they
bind after conversion into the account's settlement currency, at its rate, so that only the provider can tell.
"""

import re
from dataclasses import dataclass

from foundation.errors import InvalidInput

_ZERO_DECIMALS = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"
_TWO_DECIMALS = (
    "aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bmd bnd bob brl bsd bwp byn bzd cad cdf chf cny cop crc cve "
    "czk dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gtq gyd hkd hnl htg huf idr ils inr isk jmd kes kgs khr kyd kzt "
    "lak lbp lkr lrd lsl mad mdl mkd mmk mnt mop mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd pab pen pgk php pkr pln "
    "qar ron rsd rub sar sbd scr sek sgd shp sle sos srd std szl thb tjs top try ttd twd tzs uah ugx usd uyu uzs wst xcd "
    "xcg yer zar zmw"
)
_THREE_DECIMALS = "bhd jod kwd omr tnd"

EXPONENTS: dict[str, int] = {
    **dict.fromkeys(_ZERO_DECIMALS.split(), 0),
    **dict.fromkeys(_TWO_DECIMALS.split(), 2),
    **dict.fromkeys(_THREE_DECIMALS.split(), 3),
}
# Loyalty points are counted in the ledger like money, and are none: they are not above, so nothing is priced in them.
POINTS = "pts"
_SYMBOLS = {"usd": "$", "eur": "€", "gbp": "£", "jpy": "¥"}

# What a charge or a refund must be a multiple of. The card networks behind the provider count three-decimal currencies
# in hundredths, so that the last digit is 0; ISK and UGX have no hundredths at all.
_STEPS = {**dict.fromkeys(_THREE_DECIMALS.split(), 10), "isk": 100, "ugx": 100}
BASIS_POINTS = 10_000
MAX_AMOUNT_MINOR = 99_999_999_999  # one amount at the edges: twelve digits are a typing error, and the provider's limit
_LONGEST_DIGITS = 18  # what a bigint surely holds


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


@dataclass(frozen=True, slots=True)
class Style:
    """How a reader writes numbers: what groups the thousands, what begins the decimals."""

    group: str = ","
    decimal: str = "."

    @property
    def symbol_behind(self) -> bool:
        """`1.234,50 €`: as a rule where the comma begins the decimals. `€1,234.50` elsewhere."""
        return self.decimal == ","


PLAIN = Style()  # in e-mails, logs, commands


def exponent(currency: str) -> int:
    """How many decimals a currency has; points have none. Raises UnknownCurrency."""
    if currency == POINTS:
        return 0
    require_money(currency)
    return EXPONENTS[currency]


def require_money(currency: str) -> None:
    """What something can be priced and paid in: not loyalty points. Raises UnknownCurrency."""
    if currency not in EXPONENTS:
        raise UnknownCurrency(f"Currency {currency!r} is not known: use a lower-case ISO 4217 code.")


def step(currency: str) -> int:
    """What a charge or refund must be a multiple of, in minor units: 1, 10 (three decimals), or 100 (ISK, UGX)."""
    return _STEPS.get(currency, 1)


def check_step(amount_minor: int, currency: str, *, param: str = "amount") -> None:
    """Raises InvalidInput (naming `param`) for an amount that the provider cannot charge or refund (1.234 KWD, 1.50 ISK),
    and UnknownCurrency."""
    exponent(currency)
    if amount_minor % step(currency):
        unit = format_minor(step(currency), currency)
        raise InvalidInput(
            f"{format_minor(amount_minor, currency)} cannot be charged: use a multiple of {unit}.", param=param
        )


def whole_steps(amount_minor: int, currency: str) -> int:
    """The amount down to what can be charged or refunded: `1239, "kwd"` → 1230."""
    return amount_minor - amount_minor % step(currency)


def plain_major(amount_minor: int, currency: str) -> str:
    """For machines, without symbol and grouping: `-123456, "usd"` → `-1234.56`."""
    decimals = exponent(currency)
    whole, rest = divmod(abs(amount_minor), 10**decimals)
    sign = "-" if amount_minor < 0 else ""
    return f"{sign}{whole}.{rest:0{decimals}}" if decimals else f"{sign}{whole}"


def format_minor(amount_minor: int, currency: str, style: Style = PLAIN) -> str:
    """`1234, "usd"` → `$12.34`; `-500, "jpy"` → `−¥500`; a currency without a short sign is named behind the amount."""
    decimals = exponent(currency)
    whole, rest = divmod(abs(amount_minor), 10**decimals)
    digits = f"{whole:,}".replace(",", style.group)
    if decimals:
        digits = f"{digits}{style.decimal}{rest:0{decimals}}"
    sign = "−" if amount_minor < 0 else ""
    symbol = _SYMBOLS.get(currency)
    if currency == POINTS:
        return f"{sign}{digits} points"
    if symbol and not style.symbol_behind:
        return f"{sign}{symbol}{digits}"
    return f"{sign}{digits} {symbol or currency.upper()}"


def parse_major(text: str, currency: str, style: Style = PLAIN) -> int:
    """`"12.34", "usd"` → 1234. Raises InvalidInput for what is not a number, or has too many decimals.

    What groups the thousands may stand between groups of three and nowhere else: `12.50` is not 1250 for a reader who
    groups by points.
    """
    decimals = exponent(currency)
    group = r"\s" if style.group.isspace() else re.escape(style.group)
    pattern = rf"(-?)([0-9]+|[0-9]{{1,3}}(?:{group}[0-9]{{3}})+)(?:{re.escape(style.decimal)}([0-9]+))?"
    found = re.fullmatch(pattern, text.strip().replace("−", "-"))
    if found is None:
        raise InvalidInput(f"{text!r} is not an amount: write it as {_example(currency, style)}.")
    sign, whole, rest = found[1], re.sub("[^0-9]", "", found[2]), found[3] or ""
    if rest[decimals:].strip("0"):
        raise InvalidInput(f"{text!r} has more decimals than {currency.upper()} counts.")
    digits = whole + rest[:decimals].ljust(decimals, "0")
    if len(digits.lstrip("0")) > _LONGEST_DIGITS:
        raise InvalidInput(f"{text!r} is too large.")
    return int(sign + digits)


def _example(currency: str, style: Style) -> str:
    return f"12{style.decimal}{'34500'[: exponent(currency)]}" if exponent(currency) else "1200"


def share(amount_minor: int, basis_points: int) -> int:
    """A share of an amount, rounded half to even: `share(12345, 5000)` → 6172."""
    whole, rest = divmod(amount_minor * basis_points, BASIS_POINTS)
    is_more = 2 * rest > BASIS_POINTS or (2 * rest == BASIS_POINTS and whole % 2 == 1)
    return whole + is_more
