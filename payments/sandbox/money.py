"""Currencies, the limits of an amount, and fees. Integer minor units throughout, as Stripe counts them."""

from payments.sandbox.errors import InvalidParameter

ZERO_DECIMAL = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"]
)
# Three decimals; Stripe wants the last digit to be 0.
THREE_DECIMAL = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])
# Have no minor unit in practice, but are sent times 100.
WHOLE_UNITS_TIMES_100 = frozenset(["isk", "ugx"])
TWO_DECIMAL = frozenset(
    [
        "aed",
        "afn",
        "all",
        "amd",
        "ang",
        "aoa",
        "ars",
        "aud",
        "awg",
        "azn",
        "bam",
        "bbd",
        "bdt",
        "bgn",
        "bmd",
        "bnd",
        "bob",
        "brl",
        "bsd",
        "bwp",
        "byn",
        "bzd",
        "cad",
        "cdf",
        "chf",
        "cny",
        "cop",
        "crc",
        "cve",
        "czk",
        "dkk",
        "dop",
        "dzd",
        "egp",
        "etb",
        "eur",
        "fjd",
        "fkp",
        "gbp",
        "gel",
        "gip",
        "gmd",
        "gtq",
        "gyd",
        "hkd",
        "hnl",
        "htg",
        "huf",
        "idr",
        "ils",
        "inr",
        "jmd",
        "kes",
        "kgs",
        "khr",
        "kyd",
        "kzt",
        "lak",
        "lbp",
        "lkr",
        "lrd",
        "lsl",
        "mad",
        "mdl",
        "mkd",
        "mmk",
        "mnt",
        "mop",
        "mur",
        "mvr",
        "mwk",
        "mxn",
        "myr",
        "mzn",
        "nad",
        "ngn",
        "nio",
        "nok",
        "npr",
        "nzd",
        "pab",
        "pen",
        "pgk",
        "php",
        "pkr",
        "pln",
        "qar",
        "ron",
        "rsd",
        "rub",
        "sar",
        "sbd",
        "scr",
        "sek",
        "sgd",
        "shp",
        "sle",
        "sos",
        "srd",
        "std",
        "szl",
        "thb",
        "tjs",
        "top",
        "try",
        "ttd",
        "twd",
        "tzs",
        "uah",
        "usd",
        "uyu",
        "uzs",
        "wst",
        "xcd",
        "yer",
        "zar",
        "zmw",
    ]
)
CURRENCIES = ZERO_DECIMAL | THREE_DECIMAL | WHOLE_UNITS_TIMES_100 | TWO_DECIMAL

# Stripe's published minimum charges; the rest are converted by it, here they are 1.
MINIMUM = {
    "aed": 200, "aud": 50, "bgn": 100, "brl": 50, "cad": 50, "chf": 50, "czk": 1500, "dkk": 250, "eur": 50, "gbp": 30,
    "hkd": 400, "huf": 17500, "inr": 50, "jpy": 50, "mxn": 1000, "myr": 200, "nok": 300, "nzd": 50, "pln": 200,
    "ron": 200, "sek": 300, "sgd": 50, "thb": 1000, "usd": 50,
}  # fmt: skip
MAXIMUM = 99_999_999  # eight digits
MAXIMUM_ZERO_DECIMAL = 9_999_999_999  # Stripe allows more digits where the unit is small

FEE_PER_MILLE = 29  # 2.9 %
FEE_FIXED = 30  # minor units: 30 cents, 30 yen; 0.300 where there are three decimals
DISPUTE_FEE = 1500  # minor units: 15 dollars, 1,500 yen; 15.000 where there are three decimals


def check_amount(amount: int, currency: str) -> None:
    """Raises InvalidParameter in Stripe's words."""
    if currency not in CURRENCIES:
        raise InvalidParameter(
            f"Invalid currency: {currency}. Stripe currently supports these currencies: {', '.join(sorted(CURRENCIES))}",
            param="currency",
        )
    if amount < 1:
        raise InvalidParameter(
            "This value must be greater than or equal to 1.", code="parameter_invalid_integer", param="amount"
        )
    minimum = MINIMUM.get(currency, 1)
    if amount < minimum:
        raise InvalidParameter(
            f"Amount must be at least {shown(minimum, currency)}", code="amount_too_small", param="amount"
        )
    maximum = MAXIMUM_ZERO_DECIMAL if currency in ZERO_DECIMAL else MAXIMUM
    if amount > maximum:
        raise InvalidParameter(
            f"Amount must be no more than {shown(maximum, currency)}", code="amount_too_large", param="amount"
        )
    if amount % smallest_step(currency):
        raise InvalidParameter(
            f"Invalid amount: in {currency} it must be a multiple of {smallest_step(currency)}.", param="amount"
        )


def smallest_step(currency: str) -> int:
    """The least difference between two chargeable amounts, in minor units."""
    if currency in WHOLE_UNITS_TIMES_100:
        return 100
    return 10 if currency in THREE_DECIMAL else 1


def processing_fee(amount: int, currency: str) -> int:
    """2.9 % rounded half up, plus the fixed part; the rate for a card issued in the account's own country."""
    fixed = FEE_FIXED * 10 if currency in THREE_DECIMAL else FEE_FIXED
    return (amount * FEE_PER_MILLE + 500) // 1000 + fixed


def dispute_fee(currency: str) -> int:
    """What a dispute costs, won or lost."""
    return DISPUTE_FEE * 10 if currency in THREE_DECIMAL else DISPUTE_FEE


def shown(amount: int, currency: str) -> str:
    """For messages: `10.50 usd`."""
    if currency in ZERO_DECIMAL:
        return f"{amount} {currency}"
    digits = 3 if currency in THREE_DECIMAL else 2
    return f"{amount // 10**digits}.{amount % 10**digits:0{digits}d} {currency}"
