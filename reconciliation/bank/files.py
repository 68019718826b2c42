"""What a bank's statement file holds, whatever its layout: statements of accounts, and their lines.

Amounts are minor units: positive where money came in. Readers are generators: what they yield stands in the order of the
file, and nothing is kept that was yielded, so that memory stays flat.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import BinaryIO, Final

from foundation.money import EXPONENTS
from reconciliation.imports import Unreadable
from reconciliation.types import Problem

CAMT053: Final = "camt053"
MT940: Final = "mt940"
PLAIN: Final = "bank_csv"

LONGEST_ACCOUNT: Final = 64
_IBAN = re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}")  # ISO 13616
_HEAD = 64 * 1024
_LONGEST_AMOUNT = 18  # digits that a bigint surely holds
_MARKS: Final = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8"}


@dataclass(frozen=True, slots=True)
class Line:
    """A booking. `line` is where it stands in the file, from 1; `statement` the statement that it belongs to, from 0.

    `reference` is the bank's own, where it names one: `is_unique` says that it alone names the booking.
    """

    line: int
    statement: int
    account: str
    currency: str
    booked_on: date
    valued_on: date | None
    amount_minor: int
    reference: str
    references: str
    counterparty: str
    text: str
    raw: str
    is_unique: bool = False


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement's end: what it said of itself. Balances are None where the layout knows none."""

    line: int
    account: str
    currency: str
    number: str
    first_day: date | None
    last_day: date | None
    opening_minor: int | None
    closing_minor: int | None


Read = Iterator[Line | Statement | Problem]


class LineError(Exception):
    """What is wrong with the line that is being read."""


def minor(amount: str | Decimal, currency: str) -> int:
    """An amount in major units as minor ones. Raises LineError."""
    check_currency(currency)
    try:
        value = Decimal(amount).scaleb(EXPONENTS[currency])
    except InvalidOperation:
        raise LineError(f"the amount is not one: {str(amount)[:40]}") from None
    if not value.is_finite() or value.adjusted() >= _LONGEST_AMOUNT:
        raise LineError(f"the amount is not one: {str(amount)[:40]}")
    if value != value.to_integral_value():
        raise LineError(f"an amount has more decimals than {currency.upper()} counts")
    return int(value)


def check_currency(currency: str) -> None:
    """Raises LineError."""
    if currency not in EXPONENTS:
        raise LineError(f"the currency is not known: {currency[:20]}")


def a_date(text: str, what: str) -> date:
    """A day as ISO 8601 has it. Raises LineError."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise LineError(f"the {what} is not a day: {text[:40]}") from None


def account_of(text: str) -> str:
    """How an account is called: an IBAN bears no blanks, however it was written; another name stays as it is."""
    iban = "".join(text.split()).upper()
    return iban if _IBAN.fullmatch(iban) else text.strip()[:LONGEST_ACCOUNT]


def layout_of(file: BinaryIO) -> str:
    """Which layout a file has, by how it begins. Raises Unreadable."""
    file.seek(0)
    head = file.read(_HEAD)
    file.seek(0)
    mark = next((mark for mark in _MARKS if head.startswith(mark)), b"")
    text = head.removeprefix(mark).decode(_MARKS.get(mark, "latin-1"), errors="replace").lstrip()
    if not text:
        raise Unreadable(1, "the file is empty")
    if text.startswith("<"):
        return CAMT053
    if _MARKS.get(mark) == "utf-16":
        raise Unreadable(1, "the file is in UTF-16: save it as UTF-8")
    if text.startswith("{1:") or re.search(r"(?m)^:20:", text):
        return MT940
    if re.match(r"[^\r\n]*\bbooked_on\b", text):
        return PLAIN
    raise Unreadable(
        1, "this is no bank statement that we know: neither CAMT.053, nor MT940, nor a CSV with the column booked_on"
    )


def text_lines(file: BinaryIO, encoding: str) -> Iterator[tuple[int, str]]:
    """The file's lines, numbered from 1, without their ends. What is not of that encoding bears U+FFFD: `is_broken`."""
    for number, raw in enumerate(file, start=1):
        line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        yield number, line.decode(encoding, errors="replace").rstrip("\r\n")


def is_broken(text: str, encoding: str) -> str:
    """What is wrong with a text as text; empty where nothing is."""
    if "\N{REPLACEMENT CHARACTER}" in text:
        return f"not {encoding.upper()}"
    return "it holds a NUL byte" if "\0" in text else ""
