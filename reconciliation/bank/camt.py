"""Reads CAMT.053 (ISO 20022, bank to customer statement), any version: the elements that we need are named the same in all.

What differs between versions is asked for in both forms: a status is a text up to version 02 (`Sts`) and an element of its own
since (`Sts/Cd`), a party has its name at once, or within `Pty`. Read by lxml entry by entry; what was read is dropped.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, BinaryIO

from lxml import etree

from reconciliation.bank.files import Line, LineError, Read, Statement, a_date, account_of, minor
from reconciliation.imports import Unreadable
from reconciliation.types import Problem

_NAMESPACE = re.compile(r"\{urn:iso:std:iso:20022:tech:xsd:(camt\.053\.001\.\d\d)\}Document")
_SIGNS = {"CRDT": 1, "DBIT": -1}
_OPENING, _CLOSING = ("OPBD", "PRCD"), ("CLBD",)  # booked; PRCD: the closing one of the day before
_NOTHING = {"NOTPROVIDED", "NONREF", "UNKNOWN"}  # what banks write where there is no reference
_REFERENCE = 140  # characters kept of the bank's own; the standard has 35
_REFERENCES = 1_000  # characters kept of all references together
_TEXT = 2_000

Element = Any  # lxml has no types of its own


@dataclass(slots=True)
class _Stated:
    """What the statement under way has said of itself so far."""

    index: int
    line: int
    account: str = ""
    currency: str = ""
    number: str = ""
    balances: dict[str, tuple[int, date]] = field(default_factory=dict)
    first_day: date | None = None
    last_day: date | None = None
    entries: int = 0

    def balance(self, codes: Sequence[str]) -> tuple[int, date] | None:
        return next((self.balances[code] for code in codes if code in self.balances), None)


def read(file: BinaryIO) -> Read:
    """Raises Unreadable where it is no CAMT.053, or breaks off."""
    try:
        yield from _read(file)
    except etree.XMLSyntaxError as error:
        raise Unreadable(error.lineno or 1, f"torn: {error.msg}") from None


def _read(file: BinaryIO) -> Read:
    # Nothing outside of the file is read, and nothing in it is expanded.
    events = etree.iterparse(
        file,
        events=("start", "end"),
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    stated: _Stated | None = None
    statements = 0
    for event, element in events:
        name = etree.QName(element).localname
        parent = element.getparent()
        if event == "start":
            if parent is None:
                _check_root(element)
            elif name == "Stmt":
                stated = _Stated(statements, element.sourceline or 1)
                statements += 1
        elif stated is None or parent is None:
            continue
        elif etree.QName(parent).localname == "Stmt":
            yield from _part(stated, name, element)
            if name == "Ntry":
                _drop(element)
        elif name == "Stmt":
            yield Statement(
                line=stated.line,
                account=stated.account,
                currency=stated.currency,
                number=stated.number,
                first_day=stated.first_day,
                last_day=stated.last_day,
                opening_minor=_amount(stated.balance(_OPENING)),
                closing_minor=_amount(stated.balance(_CLOSING)),
            )
            stated = None
            _drop(element)
    if not statements:
        raise Unreadable(1, "it holds no statement")


def _check_root(element: Element) -> None:
    if element.getroottree().docinfo.internalDTD is not None:
        raise Unreadable(1, "a document type has no place in a statement")
    if not _NAMESPACE.fullmatch(element.tag):
        raise Unreadable(element.sourceline or 1, f"this is no CAMT.053: {element.tag[:100]}")


def _part(stated: _Stated, name: str, element: Element) -> Iterator[Line | Problem]:
    """A child of the statement, at its end."""
    try:
        match name:
            case "Id" | "ElctrncSeqNb":
                stated.number = stated.number or (element.text or "").strip()[:64]
            case "FrToDt":
                stated.first_day = a_date(_text(element, "FrDtTm", "FrDt")[:10], "first day")
                stated.last_day = a_date(_text(element, "ToDtTm", "ToDt")[:10], "last day")
            case "Acct":
                stated.account = account_of(_text(element, "Id/IBAN", "Id/Othr/Id"))
                stated.currency = _text(element, "Ccy").lower()
            case "Bal":
                _note_balance(stated, element)
            case "Ntry":
                stated.entries += 1
                line = _entry(stated, element)
                if line is not None:
                    yield line
    except LineError as error:
        where = f"entry {stated.entries}: " if name == "Ntry" else ""  # of a file that is one long line
        yield Problem(element.sourceline or stated.line, f"{where}{error}")


def _note_balance(stated: _Stated, element: Element) -> None:
    code = _text(element, "Tp/CdOrPrtry/Cd")
    if code not in (*_OPENING, *_CLOSING):
        return
    amount, currency = _money(element)
    stated.currency = stated.currency or currency
    if currency != stated.currency:
        raise LineError(f"wrong currency: {currency}, the account's is {stated.currency}")
    day = a_date(_text(element, "Dt/Dt", "Dt/DtTm")[:10], "balance's date")
    stated.balances[code] = (amount, day)
    stated.first_day, stated.last_day = stated.first_day or day, stated.last_day or day
    if code in _CLOSING:
        stated.last_day = max(stated.last_day, day)


def _entry(stated: _Stated, element: Element) -> Line | None:
    status = _text(element, "Sts/Cd", "Sts")
    if status != "BOOK":
        return None  # announced, or for information: it is booked later, and told again then
    amount, currency = _money(element)
    stated.currency = stated.currency or currency
    if currency != stated.currency:
        raise LineError(f"wrong currency: {currency}, the account's is {stated.currency}")
    booked = _text(element, "BookgDt/Dt", "BookgDt/DtTm")
    if not booked:
        raise LineError("it has no booking date")
    valued = _text(element, "ValDt/Dt", "ValDt/DtTm")
    payer = "Dbtr" if amount > 0 else "Cdtr"
    parties = f"NtryDtls/TxDtls/RltdPties/{payer}"
    return Line(
        line=element.sourceline or stated.line,
        statement=stated.index,
        account=stated.account,
        currency=currency,
        booked_on=a_date(booked[:10], "booking date"),
        valued_on=a_date(valued[:10], "value date") if valued else None,
        amount_minor=amount,
        reference=_known(_text(element, "AcctSvcrRef"))[:_REFERENCE],
        references=" ".join(_references(element))[:_REFERENCES],
        counterparty=_text(element, f"{parties}/Nm", f"{parties}/Pty/Nm")[:255],
        text=" ".join(_texts(element))[:_TEXT],
        raw=etree.tostring(element, encoding="unicode", with_tail=False),
    )


def _money(element: Element) -> tuple[int, str]:
    """Signed, and its currency."""
    amount = element.find("{*}Amt")
    if amount is None:
        raise LineError("it has no amount")
    sign = _SIGNS.get(_text(element, "CdtDbtInd"))
    if sign is None:
        raise LineError("it does not say whether it is credit or debit")
    currency = amount.get("Ccy", "").lower()
    return sign * minor((amount.text or "").strip(), currency), currency


def _references(element: Element) -> Iterator[str]:
    """All that names what the entry is made of, each once. `NtryRef` is its place in this statement, and names nothing."""
    parts = []
    for refs in element.iterfind("{*}NtryDtls/{*}TxDtls/{*}Refs"):
        parts += refs.iterdescendants("{*}*")
    seen = set()
    for part in parts:
        text = _known((part.text or "").strip())
        if text and text not in seen:
            seen.add(text)
            yield text


def _texts(element: Element) -> Iterator[str]:
    details = "{*}NtryDtls/{*}TxDtls/"
    for path in (
        details + "{*}RmtInf/{*}Ustrd",
        details + "{*}RmtInf/{*}Strd/{*}CdtrRefInf/{*}Ref",
        details + "{*}AddtlTxInf",
        "{*}AddtlNtryInf",
    ):
        for part in element.iterfind(path):
            if text := (part.text or "").strip():
                yield text


def _text(element: Element, *paths: str) -> str:
    """The first of these elements that holds a text."""
    for path in paths:
        wanted = "/".join(f"{{*}}{step}" for step in path.split("/"))
        if text := (element.findtext(wanted) or "").strip():
            return str(text)
    return ""


def _known(reference: str) -> str:
    return "" if reference.upper() in _NOTHING else reference


def _amount(balance: tuple[int, date] | None) -> int | None:
    return balance[0] if balance else None


def _drop(element: Element) -> None:
    """Forget an element and what stands before it: it was read."""
    element.clear(keep_tail=False)
    parent = element.getparent()
    while parent is not None and element.getprevious() is not None:
        del parent[0]
