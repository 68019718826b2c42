"""The vocabulary of reconciliation: kinds of discrepancies, what a run reports, what an action is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final
from uuid import UUID


class Kind:
    """How our books and the provider's can differ. The first four come in a form for refunds, too."""

    MISSING_IN_STRIPE: Final = "missing_in_stripe"
    MISSING_IN_OUR_SYSTEM: Final = "missing_in_our_system"
    AMOUNT_MISMATCH: Final = "amount_mismatch"
    STATUS_MISMATCH: Final = "status_mismatch"
    MISSING_IN_STRIPE_REFUND: Final = "missing_in_stripe_refund"
    MISSING_IN_OUR_SYSTEM_REFUND: Final = "missing_in_our_system_refund"
    AMOUNT_MISMATCH_REFUND: Final = "amount_mismatch_refund"
    STATUS_MISMATCH_REFUND: Final = "status_mismatch_refund"
    CURRENCY_MISMATCH: Final = "currency_mismatch"
    DUPLICATE_CHARGE: Final = "duplicate_charge"
    FOREIGN_INSTANCE: Final = "foreign_instance"
    UNKNOWN_TYPE: Final = "unknown_type"


class Severity:
    HIGH: Final = "high"  # money that we do not know of, or that is not there
    MEDIUM: Final = "medium"
    LOW: Final = "low"


@dataclass(frozen=True, slots=True)
class KindInfo:
    """How a kind is shown: its name, its weight, and a sentence for whoever opens it."""

    label: str
    severity: str
    explanation: str


KINDS: Mapping[str, KindInfo] = {
    Kind.MISSING_IN_STRIPE: KindInfo(
        "Missing in Stripe",
        Severity.HIGH,
        "Our books say that this payment was captured; Stripe's books do not hold it.",
    ),
    Kind.MISSING_IN_OUR_SYSTEM: KindInfo(
        "Missing in our system",
        Severity.HIGH,
        "Stripe captured money for which we have no payment: a customer may have paid without getting anything.",
    ),
    Kind.AMOUNT_MISMATCH: KindInfo(
        "Amounts differ", Severity.HIGH, "Both sides know this payment, with different amounts."
    ),
    Kind.STATUS_MISMATCH: KindInfo(
        "Statuses differ",
        Severity.HIGH,
        "Both sides know this payment; one of them says that it succeeded, the other not.",
    ),
    Kind.MISSING_IN_STRIPE_REFUND: KindInfo(
        "Refund missing in Stripe",
        Severity.HIGH,
        "Our books say that this refund was paid; Stripe's books do not hold it: the customer may still wait for it.",
    ),
    Kind.MISSING_IN_OUR_SYSTEM_REFUND: KindInfo(
        "Refund missing in our system",
        Severity.HIGH,
        "Stripe paid a refund that our books do not know: most often somebody made it in Stripe's dashboard.",
    ),
    Kind.AMOUNT_MISMATCH_REFUND: KindInfo(
        "Refund amounts differ", Severity.MEDIUM, "Both sides know this refund, with different amounts."
    ),
    Kind.STATUS_MISMATCH_REFUND: KindInfo(
        "Refund statuses differ",
        Severity.HIGH,
        "Both sides know this refund; one of them says that it was paid, the other not.",
    ),
    Kind.CURRENCY_MISMATCH: KindInfo(
        "Currencies differ", Severity.HIGH, "Both sides know this movement, in different currencies."
    ),
    Kind.DUPLICATE_CHARGE: KindInfo(
        "Charged twice",
        Severity.HIGH,
        "Stripe charged the customer a second time for a payment that another charge has settled.",
    ),
    Kind.FOREIGN_INSTANCE: KindInfo(
        "Another installation's",
        Severity.LOW,
        "This movement carries the mark of another installation that shares the Stripe account: its books hold it.",
    ),
    Kind.UNKNOWN_TYPE: KindInfo(
        "Unknown type", Severity.MEDIUM, "Stripe's books hold a row of a category that this version cannot classify."
    ),
}


@dataclass(slots=True)
class KindCounts:
    """What a run says of one kind: seen for the first time (or again), still there, gone, explained by time."""

    new: int = 0
    persisting: int = 0
    resolved: int = 0
    timing: int = 0


@dataclass(slots=True)
class RunReport:
    """What a run found. Totals are net gross amounts in minor units by currency: charges less refunds, before fees."""

    run_id: UUID | None  # None: a dry run stores nothing
    date: date
    provisional: bool
    imported: int = 0
    ours_count: int = 0
    ours_totals: dict[str, int] = field(default_factory=dict)
    theirs_count: int = 0
    theirs_totals: dict[str, int] = field(default_factory=dict)
    matched: int = 0
    kinds: dict[str, KindCounts] = field(default_factory=dict)
    # What neither a match nor a discrepancy accounts for, by currency: anything but 0 is a defect in matching.
    residual: dict[str, int] = field(default_factory=dict)
    duration_ms: int = 0

    @property
    def open_count(self) -> int:
        return sum(counts.new + counts.persisting for counts in self.kinds.values())


@dataclass(frozen=True, slots=True)
class ActionInfo:
    """An action as a clerk sees it: a button, a sentence, who may press it, and what else it asks for."""

    name: str
    label: str
    explanation: str
    permission: str  # `app_label.codename`
    asks_for: tuple[str, ...] = ()  # of order_number, amount_minor, owner, until
    repairs: bool = False  # whether it can make both sides equal


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What an action did, in a sentence, and the discrepancy's state after it."""

    text: str
    state: str
    closed_as: str
    replayed: bool = False  # it had been done before: nothing was done now


@dataclass(frozen=True, slots=True)
class KindBacklog:
    """Open discrepancies of one kind: how many, worth how much, and how old (`0–1`, `2–3`, `4–7`, `8–30`, `>30` days)."""

    kind: str
    label: str
    severity: str
    count: int
    value: dict[str, int]  # currency → Σ |difference| in minor units
    ageing: dict[str, Any]  # bucket → {"count": n, "value": {currency: minor units}}
