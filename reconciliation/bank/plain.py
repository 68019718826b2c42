"""Reads our own CSV of a bank account: for banks that give neither CAMT.053 nor MT940 (docs/bank-statements.md)."""

import csv
from collections.abc import Iterator
from datetime import date
from typing import BinaryIO

from reconciliation.bank.files import (
    Line,
    LineError,
    Read,
    Statement,
    a_date,
    account_of,
    check_currency,
    is_broken,
    text_lines,
)
from reconciliation.imports import Unreadable
from reconciliation.types import Problem

_NECESSARY = ("reference", "account", "booked_on", "currency", "amount_minor")
_OPTIONAL = ("valued_on", "end_to_end", "counterparty", "text")
_LONGEST_REFERENCE = 140
_LONGEST_WHOLE = 18  # digits that a bigint surely holds


def read(file: BinaryIO, encoding: str = "utf-8") -> Read:
    """The file's lines, then one statement for each account and currency, without balances. Raises Unreadable."""
    seen: list[str] = []  # the record's lines as they stand, for its raw form

    def lines() -> Iterator[str]:
        for _, text in text_lines(file, encoding):
            seen.append(text)
            yield text + "\n"

    rows = csv.reader(lines(), strict=True)
    try:
        columns = [name.strip() for name in next(rows, [])]
    except csv.Error as error:
        raise Unreadable(1, f"torn: {error}") from None
    _check(columns, encoding)
    accounts: dict[tuple[str, str], tuple[int, date, date]] = {}
    seen.clear()
    line = rows.line_num + 1
    try:
        for row in rows:
            raw = "\n".join(seen)
            seen.clear()
            try:
                found = _line(columns, row, raw, line=line, encoding=encoding, accounts=accounts)
                yield found
                _note(accounts, found)
            except LineError as error:
                yield Problem(line, str(error))
            line = rows.line_num + 1
    except csv.Error as error:
        yield Problem(line, f"torn: {error}")
    for (account, currency), (_, first, last) in accounts.items():
        yield Statement(1, account, currency, "", first, last, None, None)


def _check(columns: list[str], encoding: str) -> None:
    if broken := is_broken("".join(columns), encoding):
        raise Unreadable(1, f"the header is {broken}" if broken.startswith("not") else broken)
    for name in columns:
        if columns.count(name) > 1:
            raise Unreadable(1, f"the column {name!r} stands in the header {columns.count(name)} times")
    for name in _NECESSARY:
        if name not in columns:
            raise Unreadable(1, f"the column {name} is missing")


def _line(
    columns: list[str],
    row: list[str],
    raw: str,
    *,
    line: int,
    encoding: str,
    accounts: dict[tuple[str, str], tuple[int, date, date]],
) -> Line:
    if broken := next(filter(None, (is_broken(cell, encoding) for cell in row)), ""):
        raise LineError(broken)
    if not row:
        raise LineError("an empty line")
    if len(row) != len(columns):
        raise LineError(f"torn: {len(row)} cells, the header has {len(columns)}")
    cells = {name: cell.strip() for name, cell in zip(columns, row, strict=True)}
    if not cells["reference"] or not cells["account"]:
        raise LineError(f"it has no {'account' if cells['reference'] else 'reference'}")
    if len(cells["reference"]) > _LONGEST_REFERENCE:
        raise LineError(f"the reference has more than {_LONGEST_REFERENCE} characters")
    currency = cells["currency"].lower()
    check_currency(currency)
    account = account_of(cells["account"])
    known = accounts.get((account, currency))
    return Line(
        line=line,
        statement=known[0] if known else len(accounts),
        account=account,
        currency=currency,
        booked_on=a_date(cells["booked_on"], "booking date"),
        valued_on=a_date(cells["valued_on"], "value date") if cells.get("valued_on") else None,
        amount_minor=_whole(cells["amount_minor"]),
        reference=cells["reference"],
        references=cells.get("end_to_end", "")[:1_000],
        counterparty=cells.get("counterparty", "")[:255],
        text=cells.get("text", "")[:2_000],
        raw=raw,
        is_unique=True,
    )


def _whole(text: str) -> int:
    digits = text.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > _LONGEST_WHOLE:
        raise LineError(f"the amount is not a number of minor units: {text[:40]}")
    return int(text)


def _note(accounts: dict[tuple[str, str], tuple[int, date, date]], found: Line) -> None:
    key = (found.account, found.currency)
    index, first, last = accounts.get(key, (found.statement, found.booked_on, found.booked_on))
    accounts[key] = (index, min(first, found.booked_on), max(last, found.booked_on))
