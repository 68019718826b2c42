"""Reads MT940 (SWIFT customer statement), with the library mt-940 for what its fields say.

The library parses a file as a whole; here each booking goes to it alone, under its statement's opening balance. So memory
stays flat, and each error has its line. What the library forgives is not forgiven: 30 February stays no day.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, BinaryIO

from mt940.models import Transactions
from mt940.options import Options

from reconciliation.bank.files import Line, LineError, Read, Statement, account_of, is_broken, minor, text_lines
from reconciliation.imports import Unreadable
from reconciliation.types import Problem

_FIELD = re.compile(r":(\d\d[A-Z]?|NS):")
_ENVELOPE = re.compile(r"\{\d:|-\}|-\s*$")  # of a message: how it begins and ends
_OPENING, _CLOSING = ("60F", "60M"), ("62F", "62M")
_BALANCES = {
    "60F": "final_opening_balance",
    "60M": "intermediate_opening_balance",
    "62F": "final_closing_balance",
    "62M": "intermediate_closing_balance",
}
_NOTHING = {"NONREF", "NOTPROVIDED"}
_WRAPPED_AT = 65  # characters of a full line of field 86: the next one goes on in the middle of a word
_TEXT = 2_000
_NAMES = ("applicant_name", "recipient_name")
_SAID = ("purpose", "additional_purpose", "transaction_details", "posting_text", "extra_details")
_REFERENCES = (
    "customer_reference",
    "end_to_end_reference",
    "additional_position_reference",
    "mandate_reference",
    "extra_details",
)

# It logs whatever it cannot read, with all that the line says. We tell the line's number, and keep the rest to ourselves.
logging.getLogger("mt940").setLevel(logging.CRITICAL)


@dataclass(slots=True)
class _Field:
    """A field of the message: where it begins, and its lines as they stand."""

    tag: str
    line: int
    lines: list[str]

    @property
    def raw(self) -> str:
        return "\n".join(self.lines)

    @property
    def value(self) -> str:
        return self.raw.split(":", 2)[2].strip()


@dataclass(slots=True)
class _Stated:
    """The statement under way."""

    index: int
    line: int
    account: str = ""
    number: str = ""
    opening: _Field | None = None
    balances: dict[str, tuple[Decimal, str, date]] = field(default_factory=dict)
    booking: list[_Field] = field(default_factory=list)  # a field 61, and the fields 86 that follow it

    @property
    def currency(self) -> str:
        return next((currency for _, currency, _ in self.balances.values()), "")


def read(file: BinaryIO, encoding: str = "utf-8") -> Read:
    """Raises Unreadable where it holds no statement."""
    stated: _Stated | None = None
    statements = 0
    for one in _fields(file, encoding):
        if isinstance(one, Problem):
            yield one
            continue
        if stated and stated.booking and one.tag not in ("86", "NS"):
            yield _booked(stated)
        if one.tag == "20":
            if stated:
                yield from _ended(stated)
            stated = _Stated(statements, one.line)
            statements += 1
        elif stated is None:
            yield Problem(one.line, f"torn: field {one.tag} stands before any field 20")
        else:
            yield from _noted(stated, one)
    if stated and stated.booking:
        yield _booked(stated)
    if stated:
        yield from _ended(stated)
    if not statements:
        raise Unreadable(1, "it holds no statement")


def _fields(file: BinaryIO, encoding: str) -> Iterator[_Field | Problem]:
    """Each field with the lines that go on with it. Envelopes (`{1:…}`, `-}`) are passed over."""
    under_way: _Field | None = None
    for number, text in text_lines(file, encoding):
        if broken := is_broken(text, encoding):
            yield Problem(number, broken)
        elif found := _FIELD.match(text):
            if under_way:
                yield under_way
            under_way = _Field(found[1], number, [text])
        elif not text.strip():
            continue  # a field goes on after it
        elif _ENVELOPE.match(text):
            if under_way:
                yield under_way
            under_way = None
        elif under_way:
            under_way.lines.append(text)
        else:
            yield Problem(number, f"torn: it belongs to no field: {text[:40]}")
    if under_way:
        yield under_way


def _noted(stated: _Stated, one: _Field) -> Iterator[Problem]:
    if one.tag == "25":
        stated.account = account_of(one.value.partition("\n")[0])
    elif one.tag in ("28", "28C"):
        stated.number = one.value[:64]
    elif one.tag == "61" or (one.tag in ("86", "NS") and stated.booking):
        stated.booking.append(one)
    elif one.tag in _BALANCES:
        if one.tag in _OPENING:
            stated.opening = one
        try:
            balance = _parsed([one]).data[_BALANCES[one.tag]]
            amount = balance.amount
            stated.balances[one.tag] = (amount.amount, (amount.currency or "").lower(), _day(balance.date))
        except LineError:
            yield Problem(one.line, f"torn: this is no balance: {one.value[:60]}")


def _parsed(fields: Sequence[_Field]) -> Transactions:
    """What the library makes of some fields. Raises LineError."""
    parsed = Transactions(processors={"pre_statement": []}, options=Options.all())  # no day is moved to one that exists
    try:
        parsed.parse("\n".join(one.raw for one in fields))
    except (RuntimeError, ValueError, ArithmeticError, TypeError, KeyError) as error:
        raise LineError(str(error)) from error
    return parsed


def _booked(stated: _Stated) -> Line | Problem:
    booking, stated.booking = stated.booking, []
    line = booking[0].line
    if stated.opening is None:
        return Problem(line, "torn: it stands before the opening balance")
    try:
        told: dict[str, Any] = _parsed([stated.opening, *booking])[0].data
        amount = minor(told["amount"].amount, stated.currency)
    except LineError as error:
        said = str(error)
        return Problem(line, said if said.startswith(("an amount", "the ")) else f"torn: {_why(booking[0])}")
    reference = _known(told.get("bank_reference"))
    return Line(
        line=line,
        statement=stated.index,
        account=stated.account,
        currency=stated.currency,
        booked_on=_day(told.get("entry_date") or told["date"]),
        valued_on=_day(told["date"]),
        amount_minor=amount,
        reference=reference[:140],
        references=" ".join(dict.fromkeys(filter(None, (_known(told.get(name)) for name in _REFERENCES))))[:1_000],
        counterparty=" ".join(filter(None, (told.get(name) for name in _NAMES)))[:255],
        text=_said(told, booking)[:_TEXT],
        raw="\n".join(one.raw for one in booking),
    )


def _why(booking: _Field) -> str:
    return f"this is no booking: {booking.value.splitlines()[0][:60] if booking.value else 'an empty field'}"


def _said(told: dict[str, Any], booking: Sequence[_Field]) -> str:
    """The text: of a structured field its parts, else its lines, put together as they were wrapped."""
    if told.get("purpose"):
        return " ".join(str(told[name]) for name in _SAID if told.get(name))
    text, before = "", _WRAPPED_AT
    for one in booking[1:]:
        for part in one.value.splitlines():
            text += part if before == _WRAPPED_AT else f" {part}"
            before = len(part)
    return " ".join(filter(None, [text.strip(), str(told.get("extra_details") or "")]))


def _ended(stated: _Stated) -> Iterator[Statement | Problem]:
    opening = next((stated.balances[tag] for tag in _OPENING if tag in stated.balances), None)
    closing = next((stated.balances[tag] for tag in _CLOSING if tag in stated.balances), None)
    if opening is None or closing is None:
        missing = "closing" if opening else "opening"
        yield Problem(stated.line, f"torn: the statement has no {missing} balance")
        return
    try:
        yield Statement(
            line=stated.line,
            account=stated.account,
            currency=stated.currency,
            number=stated.number,
            first_day=opening[2],
            last_day=closing[2],
            opening_minor=minor(opening[0], opening[1]),
            closing_minor=minor(closing[0], closing[1]),
        )
    except LineError as error:
        yield Problem(stated.line, str(error))


def _day(day: date) -> date:
    """The library's days are of a class of their own."""
    return date(day.year, day.month, day.day)


def _known(reference: Any) -> str:
    text = str(reference or "").strip()
    return "" if text.upper() in _NOTHING else text
