"""News of payments. Names are versioned; payloads hold ids plus amount, order and provider reference."""

from dataclasses import dataclass, field
from typing import ClassVar

from durability.types import Event


@dataclass(frozen=True, slots=True)
class _AboutPayment(Event):
    payment: str
    merchant_id: str
    reference: str
    amount_minor: int
    currency: str
    provider_reference: str
    credit_minor: int = field(default=0, kw_only=True)  # the part that store credit pays, beside `amount_minor`

    @property
    def key(self) -> str:
        return self.payment


@dataclass(frozen=True, slots=True)
class PaymentCaptured(_AboutPayment):
    """The attempt has succeeded: the provider holds the customer's money, or store credit covers all of it.

    `settling` is False for a success that does not pay the reference, as a second one: it is to be refunded.
    """

    name: ClassVar[str] = "payments.payment_captured.v1"
    settling: bool


@dataclass(frozen=True, slots=True)
class PaymentFailed(_AboutPayment):
    name: ClassVar[str] = "payments.payment_failed.v1"
    code: str


@dataclass(frozen=True, slots=True)
class PaymentCancelled(_AboutPayment):
    name: ClassVar[str] = "payments.payment_cancelled.v1"


@dataclass(frozen=True, slots=True)
class PaymentContradicted(_AboutPayment):
    """The provider's intent cannot be this payment: another amount, currency, mode or intent. A person must look.

    Told once for each contradiction; again when an intent that had no charge has one.
    """

    name: ClassVar[str] = "payments.payment_contradicted.v1"
    detail: str
    contradicts: str = ""  # amount, currency, mode, intent
    intent: str = ""
    charge: str = ""  # empty while no money was taken
    theirs_amount_minor: int = 0
    theirs_currency: str = ""
    theirs_status: str = ""
    theirs_at: str = ""  # ISO 8601


@dataclass(frozen=True, slots=True)
class _AboutRefund(Event):
    refund: str
    payment: str
    merchant_id: str
    reference: str
    amount_minor: int
    currency: str
    provider_reference: str
    credit_minor: int = field(default=0, kw_only=True)  # what goes back as store credit, beside `amount_minor`

    @property
    def key(self) -> str:
        return self.payment


@dataclass(frozen=True, slots=True)
class RefundRequested(_AboutRefund):
    name: ClassVar[str] = "payments.refund_requested.v1"


@dataclass(frozen=True, slots=True)
class RefundSucceeded(_AboutRefund):
    name: ClassVar[str] = "payments.refund_succeeded.v1"


@dataclass(frozen=True, slots=True)
class RefundFailed(_AboutRefund):
    """`late`: it had succeeded, and the bank sent the money back; it is owed to the customer."""

    name: ClassVar[str] = "payments.refund_failed.v1"
    late: bool = False


@dataclass(frozen=True, slots=True)
class RefundRejected(_AboutRefund):
    """A second person said no: nothing was sent."""

    name: ClassVar[str] = "payments.refund_rejected.v1"


@dataclass(frozen=True, slots=True)
class OverRefunded(_AboutRefund):
    """A refund made at the provider behind our back commits more than was captured: a person must look."""

    name: ClassVar[str] = "payments.over_refunded.v1"
    excess_minor: int


@dataclass(frozen=True, slots=True)
class _AboutDispute(Event):
    dispute: str
    payment: str
    merchant_id: str
    reference: str
    amount_minor: int
    currency: str
    provider_reference: str
    reason: str

    @property
    def key(self) -> str:
        return self.payment


@dataclass(frozen=True, slots=True)
class DisputeOpened(_AboutDispute):
    """A customer's bank takes a payment back, or asks about it; also when an appeal opens a closed one again."""

    name: ClassVar[str] = "payments.dispute_opened.v1"
    inquiry: bool
    evidence_due_at: str


@dataclass(frozen=True, slots=True)
class DisputeClosed(_AboutDispute):
    name: ClassVar[str] = "payments.dispute_closed.v1"
    outcome: str
    lost_minor: int


@dataclass(frozen=True, slots=True)
class DisputeContradicted(_AboutDispute):
    """The provider's dispute moves another currency than its payment: our books cannot take it. A person must look."""

    name: ClassVar[str] = "payments.dispute_contradicted.v1"
    detail: str
    status: str  # the provider's


@dataclass(frozen=True, slots=True)
class _AboutPayout(Event):
    payout: str
    amount_minor: int
    currency: str
    provider_reference: str
    arrives_on: str

    @property
    def key(self) -> str:
        return self.payout


@dataclass(frozen=True, slots=True)
class PayoutPaid(_AboutPayout):
    name: ClassVar[str] = "payments.payout_paid.v1"


@dataclass(frozen=True, slots=True)
class PayoutFailed(_AboutPayout):
    name: ClassVar[str] = "payments.payout_failed.v1"
    code: str


@dataclass(frozen=True, slots=True)
class RefundContradicted(_AboutRefund):
    """The provider's refund cannot be this one: another amount or currency. Told once for each contradiction."""

    name: ClassVar[str] = "payments.refund_contradicted.v1"
    detail: str
    contradicts: str  # amount, currency, refund
    theirs: str  # the provider's id of what it reports, re_…
    theirs_amount_minor: int
    theirs_currency: str
    theirs_status: str
    theirs_at: str  # ISO 8601


@dataclass(frozen=True, slots=True)
class PointsChanged(Event):
    """A customer's loyalty points grew by a sale, or shrank by its refund: `points` is what was added."""

    name: ClassVar[str] = "payments.points_changed.v1"
    payment: str
    merchant_id: str
    reference: str
    customer: str
    currency: str
    points: int
    at: str

    @property
    def key(self) -> str:
        return self.payment


@dataclass(frozen=True, slots=True)
class ProviderEventReceived(Event):
    """A signed webhook landed in the inbox. A hint: the handler reads the object again."""

    name: ClassVar[str] = "payments.provider_event_received.v1"
    event: str
    type: str
    object_id: str
    intent_id: str

    @property
    def key(self) -> str:
        return self.intent_id or self.object_id
