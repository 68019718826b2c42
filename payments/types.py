"""What payments tell the apps above, and what the gateway tells payments. Amounts are minor units."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

from payments.states import refund_status

# Kinds of accounts of ours on which a correction of what the provider holds may be booked: nobody else's money.
CORRECTED_AGAINST = ("write_offs", "fees", "rounding", "unallocated_receipts")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, in the provider's codes."""

    code: str
    decline_code: str
    message: str


@dataclass(frozen=True, slots=True)
class PaymentView:
    """A payment as the apps above see it. `reference` is the order's number, opaque here.

    Amounts are of the whole payment; `credit_minor` of it is, or was to be, paid with store credit.
    """

    id: UUID
    number: str
    merchant_id: UUID
    reference: str
    customer: str
    status: str
    amount_minor: int
    credit_minor: int
    currency: str
    captured_minor: int
    refunded_minor: int
    refunds_open_minor: int
    refunds_owed_minor: int
    settling: bool
    method: str
    provider_reference: str
    charge_reference: str
    failure: Failure | None
    sent: bool
    contradicted: bool  # the provider's intent cannot be this payment; with a charge_reference, it took money
    created_at: datetime
    paid_at: datetime | None
    disputed: bool  # while a dispute is open nothing is refunded
    disputed_lost_minor: int  # what lost disputes took: it cannot be refunded any more

    @property
    def refund_status(self) -> str:
        """none, partial, refunding, refunded"""
        return refund_status(
            captured_minor=self.captured_minor, refunded_minor=self.refunded_minor, open_minor=self.refunds_open_minor
        )


@dataclass(frozen=True, slots=True)
class PlannedPayment:
    """An attempt that is about to be recorded: its row, and how it will look."""

    number: str
    record: Mapping[str, Any]
    view: PaymentView


@dataclass(frozen=True, slots=True)
class RefundView:
    """A refund as the apps above see it. Of the amount, `credit_minor` goes back as store credit."""

    number: str
    payment: str
    merchant_id: UUID
    status: str
    amount_minor: int
    credit_minor: int
    currency: str
    reason: str
    requested_by: str
    provider_reference: str
    created_at: datetime
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class RefundPolicy:
    """A merchant's terms for customers' refunds: days since payment, ratio in basis points, fee in minor units of its own
    currency. Of a payment in another one no fee is kept: 500 are five dollars, and five hundred yen.
    """

    window_days: int
    ratio_bp: int
    fee_minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Total:
    """A count and a sum in one currency."""

    currency: str
    count: int
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Hour:
    """What was captured and what was refunded in one hour in one currency, by the provider's clock."""

    at: datetime
    currency: str
    captured_minor: int
    refunded_minor: int


@dataclass(frozen=True, slots=True)
class EntryView:
    """A journal entry with its lines: (account, debit minor units or negative for a credit)."""

    id: UUID
    kind: str
    memo: str
    currency: str
    at: datetime
    lines: list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class DisputeView:
    """A dispute as other apps see it. `withdrawn_minor` is what the provider took, `lost_minor` what is gone for good."""

    id: UUID
    number: str
    payment: str
    status: str
    amount_minor: int
    withdrawn_minor: int
    lost_minor: int
    currency: str
    reason: str
    provider_reference: str
    evidence_due_at: datetime | None
    opened_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True, slots=True)
class DisputesWaiting:
    """How many disputes wait for our answer: in all, due soon, and too late."""

    all: int
    due_soon: int
    overdue: int


@dataclass(frozen=True, slots=True)
class KindBalance:
    """All accounts of a kind in a currency: what was debited and credited before a moment, ever, in minor units."""

    kind: str
    currency: str
    debit_minor: int
    credit_minor: int


class Booked:
    """What the provider answers when it is asked whether a capture of ours is in its books."""

    YES: Final = "yes"
    NOT_YET: Final = "not_yet"  # it took the money, and writes it down later
    NEVER: Final = "never"  # it took nothing: there is no such charge, or it failed


@dataclass(frozen=True, slots=True)
class BooksProof:
    """One day's proof that the books agree with themselves: when it finished, how many differences it found."""

    day: date
    finished_at: datetime
    found: int


# --- The provider's side, as the gateway translates it ----------------------------------------------


@dataclass(frozen=True, slots=True)
class BalanceTransaction:
    """One row of the provider's books: gross `amount_minor`, `fee_minor`, `net_minor` = amount − fee."""

    id: str
    type: str
    reporting_category: str
    source: str
    amount_minor: int
    fee_minor: int
    net_minor: int
    currency: str
    status: str
    created_at: datetime
    available_at: datetime
    payment_intent: str
    charge: str
    metadata: dict[str, str]
    source_status: str
    # JSON: what the provider itself said of the row, in its own names, keys sorted; of its source only what stands above. Says the
    # same while the provider does. Empty where somebody else told the row.
    raw: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ProviderBalance:
    """What the provider holds for us in one currency: ready to be paid out, and on its way there."""

    currency: str
    available_minor: int
    pending_minor: int

    @property
    def total_minor(self) -> int:
        return self.available_minor + self.pending_minor


@dataclass(frozen=True, slots=True)
class BalanceReading:
    """The provider's balances at one moment, told by its bookings and not by a clock.

    They hold every booking made before `through_at` (the provider's clock; None: there is none at all), those of `edge`
    made in that very second, and maybe those of `unsure`, which were booked while it was asked.
    """

    balances: list[ProviderBalance]
    through_at: datetime | None
    edge: list[str]  # txn_…
    unsure: list[str]


@dataclass(frozen=True, slots=True)
class LearntFee:
    """A fee that the provider's books tell of. `subject`: the number of the payment or dispute, empty for the account's."""

    transaction: str
    currency: str
    fee_minor: int  # negative where the provider gave one back
    merchant_id: UUID | None = None
    subject: str = ""
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Charge:
    """A charge. `balance_transaction` is None until the provider has written it (asynchronous capture)."""

    id: str
    status: str
    amount_minor: int
    amount_captured_minor: int
    currency: str
    created_at: datetime
    disputed: bool
    balance_transaction: BalanceTransaction | None
    refunded_minor: int = 0  # given back, or on its way


@dataclass(frozen=True, slots=True)
class Intent:
    """A PaymentIntent. `client_secret` lives in memory only: it is never stored, cached or logged."""

    id: str
    status: str
    amount_minor: int
    amount_received_minor: int
    currency: str
    livemode: bool
    metadata: dict[str, str]
    created_at: datetime
    failure: Failure | None
    charge: Charge | None
    client_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProviderRefund:
    """A refund at the provider."""

    id: str
    status: str
    amount_minor: int
    currency: str
    charge: str
    payment_intent: str
    metadata: dict[str, str]
    created_at: datetime
    failure_reason: str


@dataclass(frozen=True, slots=True)
class ProviderDispute:
    """A dispute at the provider, with what was really withdrawn and given back: 0 to 2 bookings, more after an appeal.

    `refundable`: refunding the customer settles it (an inquiry, where the bank only asks).
    """

    id: str
    status: str
    amount_minor: int
    currency: str
    reason: str
    charge: str
    payment_intent: str
    refundable: bool
    evidence_due_at: datetime | None
    created_at: datetime
    bookings: list[BalanceTransaction]


@dataclass(frozen=True, slots=True)
class ProviderPayout:
    """A payout to our bank. `listable`: the provider can list the bookings that it pays out."""

    id: str
    status: str
    amount_minor: int
    currency: str
    automatic: bool
    listable: bool
    arrives_on: date
    created_at: datetime
    failure_code: str
    failure_message: str
    trace_id: str = ""  # what the banks call it, some days after it was paid; empty until then


@dataclass(frozen=True, slots=True)
class ProviderEvent:
    """A webhook or a listed event: which object changed. What it became is read from the provider."""

    id: str
    type: str
    object_id: str
    intent_id: str
    livemode: bool
    created_at: datetime


@dataclass(slots=True)
class Rechecked:
    """What reading everything open at the provider came to."""

    asked: int = 0
    answered: int = 0
    needs_person: int = 0  # payments and refunds on the operators' list afterwards
