"""What finance does at its desk around the day: begins the books, takes in the bank's statements, notes what Stripe holds."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from io import BytesIO
from typing import Any

from foundation.database import database_now
from reconciliation import services
from reconciliation.errors import BooksStarted

BY = "day of trading"
_HEADER = "booked_on,account,currency,reference,amount_minor,counterparty,text\n"
_ACCOUNTS = {"usd": "DE89370400440532013000", "eur": "DE02120300000000202051"}
# What a bank on the way kept of the payout in euros.
_CHARGE_MINOR = 75


def begin_books(day: date) -> None:
    """Our books answer for the provider's account from this day on. It holds nothing then: all was paid out before."""
    try:
        services.start_books(starts_on=day, balances={}, by=BY, note="The shops open on this day.")
    except BooksStarted:
        return  # a load that is gone on with


def note_balance() -> None:
    """What the provider says that it holds, as beat asks it each half hour: the day's statement is proved by it."""
    services.read_balance()


def bank_tells_of_trial(payouts: Iterable[Mapping[str, Any]]) -> None:
    """The bank's statement of the week before: of the payouts of what was tried out, the one in euros came, less a charge; the
    other one is not there, though others' money came to that account.
    """
    rows = {one["currency"]: one for one in payouts}
    arrived = {currency: datetime.fromtimestamp(one["arrival_date"], UTC).date() for currency, one in rows.items()}
    lines = []
    if "usd" in rows:
        lines.append(_line(arrived["usd"], "usd", "T0,4000,Jane Doe,invoice 16"))
    if "eur" in rows:
        got_minor = rows["eur"]["amount"] - _CHARGE_MINOR
        lines.append(_line(arrived["eur"], "eur", f"P0,{got_minor},Stripe,{_of(rows['eur'])}"))
    _take_in(lines, name="week-before")


def bank_tells_of_today(payouts: Sequence[Mapping[str, Any]]) -> None:
    """The bank's statement of today: what was paid out, a customer's transfer, and money of Stripe's that nothing explains."""
    today = database_now().date()
    lines = [
        _line(today, one["currency"], f"P{number},{one['amount']},Stripe,{_of(one)}")
        for number, one in enumerate(payouts, start=1)
    ]
    lines += [_line(today, "usd", said) for said in ("T1,2500,Jane Doe,invoice 17", "S1,1234,Stripe,adjustment")]
    _take_in(lines, name=str(today))


def _of(payout: Mapping[str, Any]) -> str:
    return f"payout {payout['trace_id']['value']}"


def _line(on: date, currency: str, said: str) -> str:
    """`said`: reference, amount in minor units, counterparty, text."""
    return f"{on},{_ACCOUNTS[currency]},{currency},{said}\n"


def _take_in(lines: Sequence[str], *, name: str) -> None:
    if lines:
        content = _HEADER + "".join(lines)
        services.import_bank_statement(file=BytesIO(content.encode()), name=f"bank-{name}.csv", by=BY)
