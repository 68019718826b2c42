"""ISBN-10 and ISBN-13 (ISO 2108): one normal form, thirteen digits."""

import re

from catalog.errors import InvalidIsbn

_SEPARATORS = re.compile(r"[\s\u2010-\u2015-]+")
_TEN = re.compile(r"[0-9]{9}[0-9X]")
_THIRTEEN = re.compile(r"97[89][0-9]{10}")


def normalise(text: str) -> str:
    """`"0-439-02348-3"` → `"9780439023481"`. Raises InvalidIsbn, also for a wrong check digit."""
    compact = _SEPARATORS.sub("", text).upper()
    if _TEN.fullmatch(compact) and compact[9] == _check_digit_10(compact[:9]):
        body = f"978{compact[:9]}"
        return body + _check_digit_13(body)
    if _THIRTEEN.fullmatch(compact) and compact[12] == _check_digit_13(compact[:12]):
        return compact
    raise InvalidIsbn(param="isbn")


def ten_digits(isbn: str) -> str:
    """The ISBN-10 of an ISBN-13; empty where there is none (prefix 979)."""
    return isbn[3:12] + _check_digit_10(isbn[3:12]) if isbn.startswith("978") else ""


def _check_digit_10(nine: str) -> str:
    weighted = sum(weight * int(digit) for weight, digit in zip(range(10, 1, -1), nine, strict=True))
    return "0123456789X"[-weighted % 11]


def _check_digit_13(twelve: str) -> str:
    weighted = sum((3 if place % 2 else 1) * int(digit) for place, digit in enumerate(twelve))
    return str(-weighted % 10)
