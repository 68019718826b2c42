"""A second payment provider, for tests: a clerk who keeps a book on paper, in this very process. No HTTP, no SDK.

It fulfils `payments.gateway.Provider` and is chosen by PAYMENT_PROVIDER=tests.payments.paper: nothing else knows of it.
Above the line is what a provider must do; below it is what tests can do to the clerk.
"""

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import TypeVar

from payments.errors import ProviderBusy, ProviderRefused, ProviderUnsure, SignatureInvalid
from payments.types import (
    BalanceTransaction,
    Charge,
    Failure,
    Intent,
    ProviderBalance,
    ProviderDispute,
    ProviderEvent,
    ProviderPayout,
    ProviderRefund,
)

NAME = "paper"
NOTE, TORN_NOTE = "a note", "a torn note"  # payment methods: all are taken but for the latter
FEE_MINOR = 25
SIGNATURE = "Paper-Signature"
_SECRET = b"only the clerk knows"
Thing = TypeVar("Thing")


@dataclass
class Book:
    """Everything the clerk has written down."""

    intents: dict[str, Intent] = field(default_factory=dict)
    refunds: dict[str, ProviderRefund] = field(default_factory=dict)
    disputes: dict[str, ProviderDispute] = field(default_factory=dict)
    payouts: dict[str, ProviderPayout] = field(default_factory=dict)
    paid_out: dict[str, str] = field(default_factory=dict)  # booking → the payout that it is part of
    bookings: list[BalanceTransaction] = field(default_factory=list)
    events: list[ProviderEvent] = field(default_factory=list)
    made_under: dict[str, str] = field(default_factory=dict)  # our number → the clerk's
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    faults: list[str] = field(default_factory=list)


book = Book()


# --- Payments ---------------------------------------------------------------------------------------


def create_intent(
    *,
    number: str,
    amount_minor: int,
    currency: str,
    metadata: dict[str, str],
    payment_method: str,
    confirm: bool,
) -> Intent:
    fault = _begin()
    if number not in book.made_under:
        made = Intent(
            id=_new("pi"),
            status="requires_payment_method",
            amount_minor=amount_minor,
            amount_received_minor=0,
            currency=currency,
            livemode=False,
            metadata=metadata,
            created_at=_now(),
            failure=None,
            charge=None,
            client_secret=f"the word for {number}",
        )
        book.made_under[number] = _write(made, "payment_intent.created").id
        if confirm:
            pay(made.id, payment_method)
    _end(fault)
    return book.intents[book.made_under[number]]


def retrieve_intent(reference: str) -> Intent:
    _end(_begin())
    return _found(book.intents, reference)


def cancel_intent(reference: str) -> Intent:
    fault = _begin()
    intent = _found(book.intents, reference)
    if intent.status != "requires_payment_method":
        raise ProviderRefused("too_late", f"this payment is {intent.status}")
    _write(replace(intent, status="canceled"), "payment_intent.canceled")
    _end(fault)
    return book.intents[reference]


def find_intent(number: str, *, since: datetime, until: datetime | None = None) -> Intent | None:
    reference = book.made_under.get(number, "")
    return book.intents.get(reference)


def retrieve_charge_intent(charge: str) -> str:
    return next((one.id for one in book.intents.values() if one.charge and one.charge.id == charge), "")


# --- Refunds ----------------------------------------------------------------------------------------


def create_refund(*, number: str, payment_intent: str, amount_minor: int, metadata: dict[str, str]) -> ProviderRefund:
    fault = _begin()
    if number not in book.made_under:
        intent = _found(book.intents, payment_intent)
        given_minor = sum(
            one.amount_minor
            for one in book.refunds.values()
            if one.payment_intent == intent.id and one.status != "failed"
        )
        if intent.charge is None or given_minor + amount_minor > intent.amount_received_minor:
            raise ProviderRefused("too_much", "that was never taken")
        made = ProviderRefund(
            id=_new("re"),
            status="succeeded",
            amount_minor=amount_minor,
            currency=intent.currency,
            charge=intent.charge.id,
            payment_intent=intent.id,
            metadata=metadata,
            created_at=_now(),
            failure_reason="",
        )
        book.made_under[number] = _write_refund(made, "refund.created").id
        _enter("refund", made.id, -amount_minor, intent=intent, metadata=metadata)
    _end(fault)
    return book.refunds[book.made_under[number]]


def retrieve_refund(reference: str) -> ProviderRefund:
    _end(_begin())
    return _found(book.refunds, reference)


def find_refund(number: str, *, payment_intent: str) -> ProviderRefund | None:
    reference = book.made_under.get(number, "")
    return book.refunds.get(reference)


# --- Disputes and payouts ---------------------------------------------------------------------------


def retrieve_dispute(reference: str) -> ProviderDispute:
    _end(_begin())
    return _found(book.disputes, reference)


def retrieve_payout(reference: str) -> ProviderPayout:
    _end(_begin())
    return _found(book.payouts, reference)


def list_payout_transactions(payout: str) -> Iterator[BalanceTransaction]:
    yield from (row for row in reversed(book.bookings) if book.paid_out.get(row.id) == payout)


# --- The provider's books and news ------------------------------------------------------------------


def list_balance_transactions(
    *, since: datetime | None = None, until: datetime | None = None, source: str = "", after: str = ""
) -> Iterator[BalanceTransaction]:
    rows = iter(reversed(book.bookings))
    if after:
        next(row for row in rows if row.id == after)
    for row in rows:
        in_time = not since or not until or since <= row.created_at < until
        if in_time and source in ("", row.source):
            yield row


def retrieve_balance() -> list[ProviderBalance]:
    held: dict[str, int] = {}
    for row in book.bookings:
        held[row.currency] = held.get(row.currency, 0) + row.net_minor
    return [ProviderBalance(currency, minor, 0) for currency, minor in sorted(held.items())]


def list_events(*, since: datetime, until: datetime | None = None) -> Iterator[ProviderEvent]:
    for event in reversed(book.events):
        if event.created_at >= since.replace(microsecond=0) and (until is None or event.created_at < until):
            yield event


def parse_webhook(payload: bytes, headers: Mapping[str, str]) -> ProviderEvent:
    if not hmac.compare_digest(_seal(payload), headers.get(SIGNATURE, "")):
        raise SignatureInvalid
    told = json.loads(payload)
    return next(event for event in book.events if event.id == told["event"])


# --- The provider itself ----------------------------------------------------------------------------


def ping(*, timeout_s: float) -> None:
    _end(_begin())


def livemode() -> bool:
    return False


# ====================================================================================================
# What tests can do to the clerk


def open_a_new_book() -> None:
    global book  # noqa: PLW0603  one clerk a process
    book = Book()


def fail_next(*faults: str) -> None:
    """The next calls that ask for something fail: "busy", "before" or "after" the effect."""
    book.faults += faults


def pay(reference: str, payment_method: str = NOTE) -> None:
    """The customer hands over a note, at the counter or in the browser."""
    intent = book.intents[reference]
    if payment_method == TORN_NOTE:
        failure = Failure("card_declined", "torn", "This note is torn.")
        _write(replace(intent, failure=failure), "payment_intent.payment_failed")
        return
    charge = Charge(
        id=_new("ch"),
        status="succeeded",
        amount_minor=intent.amount_minor,
        amount_captured_minor=intent.amount_minor,
        currency=intent.currency,
        created_at=_now(),
        disputed=False,
        balance_transaction=None,
    )
    booked = _enter(
        "charge", charge.id, intent.amount_minor, intent=intent, metadata=intent.metadata, fee_minor=FEE_MINOR
    )
    paid = replace(
        intent,
        status="succeeded",
        amount_received_minor=intent.amount_minor,
        failure=None,
        charge=replace(charge, balance_transaction=booked),
    )
    _write(paid, "payment_intent.succeeded")


def bring_back(reference: str) -> None:
    """A refund that had succeeded comes back: nobody lives at that address any more."""
    refund = replace(book.refunds[reference], status="failed", failure_reason="moved away")
    _write_refund(refund, "refund.failed")
    intent = book.intents[refund.payment_intent]
    _enter("refund_failure", refund.id, refund.amount_minor, intent=intent, metadata=refund.metadata)


def dispute(reference: str) -> ProviderDispute:
    """The customer says that the note was not theirs: the clerk takes it out of the till."""
    intent = book.intents[reference]
    number = _new("dp")
    booked = _enter("dispute", number, -intent.amount_received_minor, intent=intent, metadata={}, fee_minor=FEE_MINOR)
    made = ProviderDispute(
        id=number,
        status="needs_response",
        amount_minor=intent.amount_received_minor,
        currency=intent.currency,
        reason="fraudulent",
        charge=intent.charge.id if intent.charge else "",
        payment_intent=intent.id,
        refundable=False,
        evidence_due_at=None,
        created_at=_now(),
        bookings=[booked],
    )
    book.disputes[number] = made
    _tell("charge.dispute.created", number, intent.id)
    return made


def carry_to_the_bank() -> ProviderPayout:
    """All that is in the till, in one currency."""
    rows = [row for row in book.bookings if row.id not in book.paid_out]
    made = ProviderPayout(
        id=_new("po"),
        status="paid",
        amount_minor=sum(row.net_minor for row in rows),
        currency=rows[0].currency,
        automatic=True,
        listable=True,
        arrives_on=_now().date(),
        created_at=_now(),
        failure_code="",
        failure_message="",
    )
    own = replace(
        rows[0],
        id=_new("txn"),
        type="payout",
        reporting_category="payout",
        source=made.id,
        amount_minor=-made.amount_minor,
        fee_minor=0,
        net_minor=-made.amount_minor,
        payment_intent="",
        charge="",
    )
    book.bookings.append(own)
    book.paid_out |= {row.id: made.id for row in [*rows, own]}
    book.payouts[made.id] = made
    _tell("payout.paid", made.id, "")
    return made


def webhook_of(event: ProviderEvent) -> tuple[bytes, dict[str, str]]:
    """What the clerk's messenger brings: a body, and its headers."""
    body = json.dumps({"event": event.id}).encode()
    return body, {SIGNATURE: _seal(body)}


# --- Underneath -------------------------------------------------------------------------------------


def _begin() -> str:
    fault = book.faults.pop(0) if book.faults else ""
    if fault == "busy":
        raise ProviderBusy("the clerk is at lunch")
    if fault == "before":
        raise ProviderUnsure("the clerk was not heard")
    return fault


def _end(fault: str) -> None:
    if fault == "after":
        raise ProviderUnsure("the clerk's answer was not heard")


def _found(drawer: dict[str, Thing], reference: str) -> Thing:
    if reference not in drawer:
        raise ProviderRefused("unknown", f"there is no {reference}")
    return drawer[reference]


def _write(intent: Intent, news: str) -> Intent:
    book.intents[intent.id] = intent
    _tell(news, intent.id, intent.id)
    return intent


def _write_refund(refund: ProviderRefund, news: str) -> ProviderRefund:
    book.refunds[refund.id] = refund
    _tell(news, refund.id, refund.payment_intent)
    return refund


def _tell(news: str, object_id: str, intent_id: str) -> None:
    book.events.append(
        ProviderEvent(
            id=_new("evt"), type=news, object_id=object_id, intent_id=intent_id, livemode=False, created_at=_now()
        )
    )


def _enter(
    kind: str, source: str, amount_minor: int, *, intent: Intent, metadata: dict[str, str], fee_minor: int = 0
) -> BalanceTransaction:
    row = BalanceTransaction(
        id=_new("txn"),
        type=kind,
        reporting_category=kind,
        source=source,
        amount_minor=amount_minor,
        fee_minor=fee_minor,
        net_minor=amount_minor - fee_minor,
        currency=intent.currency,
        status="available",
        created_at=_now(),
        available_at=_now(),
        payment_intent=intent.id,
        charge=intent.charge.id if intent.charge else source,
        metadata=metadata,
        source_status="succeeded",
    )
    book.bookings.append(row)
    return row


def _new(kind: str) -> str:
    return f"{kind}_paper{next(book.numbers)}"


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _seal(payload: bytes) -> str:
    return hmac.new(_SECRET, payload, hashlib.sha256).hexdigest()
