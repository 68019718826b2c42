"""The vocabulary of reconciliation: kinds of discrepancies, what a run reports, what an action is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Final
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
    FEE_VARIANCE: Final = "fee_variance"
    DISPUTE_UNEXPECTED: Final = "dispute_unexpected"
    DISPUTE_MISSING: Final = "dispute_missing"
    PAYOUT_DIFFERENCE: Final = "payout_difference"
    STATEMENT_RESIDUAL: Final = "statement_residual"
    REFUND_FAILED_LATE: Final = "refund_failed_late"
    OVER_REFUNDED: Final = "over_refunded"
    PAYOUT_NOT_AT_BANK: Final = "payout_not_at_bank"
    BANK_LINE_UNEXPLAINED: Final = "bank_line_unexplained"
    BANK_AMOUNT_MISMATCH: Final = "bank_amount_mismatch"


# In an item's evidence: the refund that was to settle it failed. Both books agree, and the customer still waits.
BROKEN_PROMISE: Final = "refund_came_to_nothing"

# In its evidence as `timing`: the provider was asked about a capture that it does not show. The other answer ends that wait.
NOT_BOOKED_YET: Final = "not booked by the provider yet"
NEVER_TAKEN: Final = "the provider says that it never took this"

# What a discrepancy is about. `adjustment` is a row of the provider's that stands for itself (a reserve, a top-up), `other`
# one whose category we do not know, `statement` a balance that is off, `bank` a payout or line that our bank's statement is
# about: those are looked at by `reconciliation.bank` alone.
OBJECT_KINDS: Final = ("charge", "refund", "dispute", "payout", "adjustment", "other", "statement", "bank")

# What our number of such an object begins with.
NUMBER_PREFIXES: Final[Mapping[str, str]] = {"charge": "pay", "refund": "ref", "dispute": "dsp", "payout": "pot"}

# Told by news alone. Both books may agree about such an item and it is open all the same: a run leaves it to people.
NOT_JUDGED_BY_RUNS: Final = (Kind.REFUND_FAILED_LATE, Kind.OVER_REFUNDED)


class Rule:
    """Why two records are taken for one movement, the strongest first."""

    ID: Final = "id"
    INTENT: Final = "intent"
    PERSON: Final = "person"
    METADATA: Final = "metadata"
    AMOUNT_AND_DATE: Final = "amount_and_date"


FUZZY: Final = (Rule.METADATA, Rule.AMOUNT_AND_DATE)  # made only where nothing else fits, either way
BY_RULES: Final[Mapping[str, str]] = {
    Rule.ID: "Our books know the object by the id that Stripe gives it.",
    Rule.INTENT: "Our payment knew no charge yet; both sides name the same intent.",
    Rule.PERSON: "A person linked them.",
    Rule.METADATA: "Stripe's metadata name our payment (of a refund: the payment it is of); amount and date agree, and "
    "nothing else fits, either way.",
    Rule.AMOUNT_AND_DATE: "Stripe's row names nothing; amount, currency and date agree, and nothing else of this amount "
    "is left near it, on either side.",
}


MOST_TOLERATED_MINOR: Final = 1_000  # a rounding, not a discount; PostgreSQL holds it as well


@dataclass(frozen=True, slots=True)
class Tolerated:
    """Up to so many minor units a difference counts as a match, and stays visible. `merchant_id` None: every merchant's."""

    merchant_id: UUID | None
    currency: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Rules:
    """What counts as a match beside equal ids."""

    intent: bool = True
    metadata: bool = True
    amount_and_date: bool = True
    apart: timedelta = timedelta(days=1)  # fuzzy matches are not further apart
    tolerances: tuple[Tolerated, ...] = ()  # at most one for a merchant and a currency


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a leftover of one side may be on the other. Amounts are positive minor units."""

    side: str  # ours, theirs: where it stands
    number: str  # ours; empty where it is theirs
    source: str  # ch_…, re_…
    amount_minor: int
    currency: str
    at: datetime
    order_reference: str
    agrees: tuple[str, ...]  # of payment, order, intent, amount, currency, date, id
    differs: tuple[str, ...]


class Change:
    """What other rules would do to a match."""

    GAINED: Final = "gained"
    LOST: Final = "lost"
    FLIPPED: Final = "flipped"  # matched with something else, or for another reason; or another difference than before


@dataclass(frozen=True, slots=True)
class WhatIfChange:
    """One object of the provider's that other rules would see otherwise. `before` and `after`: a rule, or a kind of difference.

    `ours_…` are our numbers, empty where there is no match.
    """

    change: str
    object_kind: str
    source: str
    before: str
    after: str
    ours_before: str
    ours_after: str
    currency: str
    theirs_minor: int
    difference_minor: int  # that the match would leave: within a tolerance


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What other rules would have done on a day."""

    day: date
    gained: int
    lost: int
    flipped: int
    matched_before: int
    matched_after: int
    open_after: int  # differences of the day that would be open
    changes: tuple[WhatIfChange, ...]  # the first ones


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
    Kind.FEE_VARIANCE: KindInfo(
        "Fees differ",
        Severity.LOW,
        "Stripe's row takes another fee than the one that it told us when the money moved, and that we posted; or in another currency.",
    ),
    Kind.DISPUTE_UNEXPECTED: KindInfo(
        "Dispute not expected",
        Severity.HIGH,
        "Stripe withdrew money for a dispute that our books do not hold, or more than they hold.",
    ),
    Kind.DISPUTE_MISSING: KindInfo(
        "Dispute missing in Stripe",
        Severity.HIGH,
        "Our books say that a dispute took money from us; Stripe's books do not hold it, or hold less: it may have been "
        "given back.",
    ),
    Kind.PAYOUT_DIFFERENCE: KindInfo(
        "Payout differs",
        Severity.HIGH,
        "A payout to our bank differs: we do not know it, its amount or its end is another one, or the bookings that it "
        "pays out do not add up to it.",
    ),
    Kind.STATEMENT_RESIDUAL: KindInfo(
        "Statement does not close",
        Severity.HIGH,
        "Opening balance and bookings do not lead to the balance that Stripe, or our own clearing account, tells, and no "
        "open item explains the rest.",
    ),
    Kind.REFUND_FAILED_LATE: KindInfo(
        "Refund failed late",
        Severity.HIGH,
        "A refund had succeeded, and the bank sent it back: the money is with us again, and the customer still waits "
        "for it.",
    ),
    Kind.OVER_REFUNDED: KindInfo(
        "Refunded too much",
        Severity.HIGH,
        "A refund made in Stripe's dashboard and those of ours commit more than the customer paid: as a rule Stripe "
        "refuses ours, and nothing is lost; look at the payment's refunds, then accept.",
    ),
    Kind.PAYOUT_NOT_AT_BANK: KindInfo(
        "Payout not at the bank",
        Severity.HIGH,
        "Stripe says that this payout was paid, and our books hold it on the bank's account; no line of the bank's statement "
        "is it. Where lines may be it, they are proposed: link the right one.",
    ),
    Kind.BANK_LINE_UNEXPLAINED: KindInfo(
        "Bank line without a payout",
        Severity.HIGH,
        "The bank's statement holds money from Stripe, or to Stripe, that none of our payouts explains. Where payouts may be "
        "it, they are proposed: link the right one.",
    ),
    Kind.BANK_AMOUNT_MISMATCH: KindInfo(
        "Bank got another amount",
        Severity.HIGH,
        "The bank's line and the payout belong together, and the amounts differ: a bank may have kept a fee, or a payout that "
        "came back is still there.",
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference that news told of, before any run looked. Amounts are positive minor units, empty where unknown.

    `source` is the charge or refund at the provider (`ch_…`, `re_…`); the intent (`pi_…`) while it has no charge.
    """

    kind: str
    object_kind: str  # charge, refund, dispute
    source: str
    order_reference: str
    merchant_id: UUID
    ours_amount_minor: int | None
    ours_currency: str
    ours_status: str
    theirs_amount_minor: int | None
    theirs_currency: str
    theirs_status: str
    difference_minor: int | None  # what the provider holds more than our books say
    payment: str = ""  # numbers
    refund: str = ""
    intent: str = ""
    charge: str = ""
    theirs_at: datetime | None = None  # the provider's clock decides the day; without it, today
    detail: str = ""  # a sentence for whoever opens it


@dataclass(slots=True)
class KindCounts:
    """What a run says of one kind: seen for the first time (or again), still there, gone, explained by time."""

    new: int = 0
    persisting: int = 0
    resolved: int = 0
    timing: int = 0


class Proved:
    """What a statement's closing balance was held against."""

    BALANCE: Final = "balance"  # what the provider said that it held
    CLEARING: Final = "clearing"  # what our own ledger says that the provider holds
    PAYOUTS: Final = "payouts"  # what the day's payouts collected


@dataclass(frozen=True, slots=True)
class Proof:
    """One independent number beside what the statement says. `residual_minor` None: it cannot be told yet, and why."""

    name: str  # of Proved
    says_minor: int | None  # the independent number, at the same cut
    explained_minor: int  # of the difference, what open items and payouts under way account for
    residual_minor: int | None
    note: str = ""
    accepted: bool = False  # a person accepted just that residual: it stays, and stands in nobody's way

    @property
    def open_minor(self) -> int:
        """What of the residual somebody has to explain or accept."""
        return 0 if self.accepted else self.residual_minor or 0

    @property
    def is_made(self) -> bool:
        return self.residual_minor is not None


@dataclass(frozen=True, slots=True)
class StatementLine:
    """A reporting category's sums of a day, with the provider's sign; net = gross − fee."""

    category: str
    rows: int
    gross_minor: int
    fee_minor: int
    net_minor: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One day of the provider's books in one currency: opening + Σ net of its lines = closing."""

    day: date
    currency: str
    opening_minor: int
    lines: tuple[StatementLine, ...]
    closing_minor: int
    proofs: tuple[Proof, ...] = ()

    @property
    def residual_minor(self) -> int:
        """What weighs most of what nothing explains and nobody accepted; 0 where every proof that could be made holds."""
        return max((proof.open_minor for proof in self.proofs), key=abs, default=0)

    @property
    def is_proved(self) -> bool:
        return bool(self.proofs) and all(proof.is_made and not proof.open_minor for proof in self.proofs)


class Whose:
    """Whose books a statement file tells."""

    PROVIDER: Final = "provider"
    BANK: Final = "bank"


# How statement files are laid out: the provider's, and a bank's.
LAYOUTS: Final = ("stripe", "stripe_payouts", "everycent", "camt053", "mt940", "bank_csv")


class ReadPart:
    """What of a window of the provider's books was read."""

    ALL: Final = ""
    ACTIVITY: Final = "activity"  # all but payouts
    PAYOUTS: Final = "payouts"


class Leg:
    """What a bank line is of a payout."""

    ARRIVAL: Final = "arrival"
    RETURN: Final = "return"  # of one that failed after its money had come


class MatchedBy:
    """Why a bank line counts as a payout's."""

    TRACE_ID: Final = "trace_id"  # it bears the trace id of the banks, or the payout's own
    AMOUNT: Final = "amount_and_date"  # unique both ways
    PERSON: Final = "person"


@dataclass(frozen=True, slots=True)
class PeriodStatement:
    """A month of the provider's books in one currency: opening + Σ net of late + Σ net of lines = closing.

    `late` belongs to earlier months, and was told after they had been closed. `proofs` are those of the month's last day.
    """

    opening_minor: int
    late: tuple[StatementLine, ...]
    lines: tuple[StatementLine, ...]
    closing_minor: int
    proofs: tuple[Proof, ...] = ()


class Audited:
    """What stands in the audit chain, and in an auditor's pack."""

    RAW: Final = "raw"  # the provider's rows: the hash of each as it was read, and what it moved
    ITEM: Final = "item"  # discrepancies
    # What people did about them, and who approved it; tolerances, links and bank links that they made and ended.
    DECISION: Final = "decision"
    HISTORY: Final = "history"  # each change of a discrepancy's state
    STATEMENT: Final = "statement"  # months as they were closed
    CLOSING: Final = "closing"  # who closed and reopened a month, when and why
    FILE: Final = "file"  # statement files that were taken in, the provider's and banks'
    BANK_LINE: Final = "bank_line"  # lines of our banks: the hash of each as it stood in its file, and what it moved


@dataclass(frozen=True, slots=True)
class PackReport:
    """An auditor's pack that was written: the block at which the chain ended, and its hash, hexadecimal."""

    path: str
    rows: int
    blocks: int
    head: str


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one line of a statement file, counted from 1 as an editor does."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class StatementReport:
    """What taking in a statement file came to. With problems nothing of it was taken in."""

    name: str
    sha256: str
    layout: str = ""
    rows: int = 0
    added: int = 0
    known: int = 0  # rows that say what we were told before
    first_day: date | None = None
    last_day: date | None = None
    replayed: bool = False  # this very file was taken in before: nothing was done
    problems: tuple[Problem, ...] = ()
    problem_count: int = 0  # there may be more than are listed
    matched: int = 0  # of a bank's file: lines that are payouts
    notes: tuple[str, ...] = ()  # what a person should know of a file that is in


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
    # What neither a match nor a discrepancy accounts for, by currency: a defect in matching, or a statement that does not
    # close. The one that weighs most.
    residual: dict[str, int] = field(default_factory=dict)
    statement: dict[str, "Statement"] = field(default_factory=dict)
    duration_ms: int = 0
    run_again: list["RunReport"] = field(default_factory=list)  # of earlier days, of which something had changed

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
    asks_for: tuple[str, ...] = ()  # fields of ActionInput
    repairs: bool = False  # whether it can make both sides equal
    in_bulk: bool = (
        True  # whether it can be done to many at once: what each item needs of its own, nobody can say for all
    )

    @property
    def settles(self) -> bool:
        """Whether it puts an amount right, lets it be, or hides it: above what a person may settle alone it takes a second one."""
        return self.permission in (_REPAIR, _ACCEPT) or self.name == Action.IGNORE_UNTIL


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What an action did, in a sentence, and the discrepancy's state after it."""

    text: str
    state: str
    closed_as: str
    replayed: bool = False  # it had been done before: nothing was done now
    waits: bool = False  # written down only: it settles more than that person may settle alone


# Days since the business date, and how a screen calls them.
AGE_BUCKETS: tuple[tuple[int, str], ...] = ((1, "0–1"), (3, "2–3"), (7, "4–7"), (30, "8–30"), (1_000_000, ">30"))


@dataclass(slots=True)
class Pile:
    """Some discrepancies: how many, and by currency Σ |difference| in minor units."""

    count: int = 0
    value: dict[str, int] = field(default_factory=dict)

    def add(self, count: int, currency: str, value_minor: int) -> None:
        self.count += count
        self.value[currency] = self.value.get(currency, 0) + value_minor


@dataclass(frozen=True, slots=True)
class KindBacklog:
    """Open discrepancies of one kind: all of them, and by age (`AGE_BUCKETS`, each bucket is there)."""

    kind: str
    info: KindInfo
    total: Pile
    ageing: dict[str, Pile]


# --- What people can do -----------------------------------------------------------------------------


class Action:
    REQUERY: Final = "requery"
    REPLAY_EVENT: Final = "replay_event"
    LINK: Final = "link"
    WRITE_OFF: Final = "write_off"
    SPLIT: Final = "split"
    CREATE_MISSING_PAYMENT: Final = "create_missing_payment"
    CREATE_MISSING_REFUND: Final = "create_missing_refund"
    POST_CORRECTION: Final = "post_correction"
    TAKE_PROVIDER_STATUS: Final = "take_provider_status"
    REFUND_CUSTOMER: Final = "refund_customer"
    MARK_FRAUD: Final = "mark_fraud"
    ACCEPT: Final = "accept"
    CLAIM: Final = "claim"
    ASSIGN: Final = "assign"
    RELEASE: Final = "release"
    IGNORE_UNTIL: Final = "ignore_until"
    LINK_BANK_LINE: Final = "link_bank_line"


_INVESTIGATE = "reconciliation.investigate_discrepancy"
_REPAIR = "reconciliation.repair_discrepancy"
_ACCEPT = "reconciliation.accept_discrepancy"

_ALL = {
    info.name: info
    for info in (
        ActionInfo(
            Action.REQUERY,
            "Ask Stripe again",
            "Reads Stripe's books for this object again and compares anew. Changes nothing else.",
            _INVESTIGATE,
        ),
        ActionInfo(
            Action.REPLAY_EVENT,
            "Replay its events",
            "Works on Stripe's events about this object once more, as if they had just arrived, and fetches those that no "
            "webhook brought. What they name is read at Stripe and taken over, with all that follows.",
            _REPAIR,
            repairs=True,
        ),
        ActionInfo(
            Action.CREATE_MISSING_PAYMENT,
            "Create the missing payment",
            "Creates our payment from Stripe's charge and attaches it to its order. An open order is then paid and "
            "carried out; one that is paid or cancelled gives the money back by itself.",
            _REPAIR,
            asks_for=("order_number",),
            repairs=True,
        ),
        ActionInfo(
            Action.CREATE_MISSING_REFUND,
            "Create the missing refund",
            "Records Stripe's refund with its payment and posts it in our books. No money moves.",
            _REPAIR,
            repairs=True,
        ),
        ActionInfo(
            Action.LINK,
            "Link with one of ours",
            "Says that Stripe's charge or refund is a payment or refund of ours that names another one, or none. Both must "
            "be the same money, and what ours named until now must have taken none.",
            _REPAIR,
            asks_for=("number",),
            repairs=True,
            in_bulk=False,
        ),
        ActionInfo(
            Action.POST_CORRECTION,
            "Post a correcting entry",
            "Posts the difference, so that our books say what Stripe's say: on write-offs, or where it belongs. No money moves.",
            _REPAIR,
            asks_for=("account",),
            repairs=True,
        ),
        ActionInfo(
            Action.SPLIT,
            "Split the difference",
            "Posts the difference in parts, each on an account of its own. They have to add up to it. No money moves.",
            _REPAIR,
            asks_for=("parts",),
            repairs=True,
            in_bulk=False,
        ),
        ActionInfo(
            Action.WRITE_OFF,
            "Write it off",
            "Gives the difference up: it is posted on write-offs as a loss, or as a gain. No money moves.",
            _ACCEPT,
            repairs=True,
        ),
        ActionInfo(
            Action.TAKE_PROVIDER_STATUS,
            "Take Stripe's status",
            "Reads the object at Stripe and takes over what it says, with all that follows: a payment that succeeded "
            "runs its sale, or is refunded where its order is closed.",
            _REPAIR,
            repairs=True,
        ),
        ActionInfo(
            Action.REFUND_CUSTOMER,
            "Refund the customer",
            "Asks Stripe to give the money back. A charge that we do not know, or that is not what we asked for, is "
            "recorded first, apart from its order.",
            _REPAIR,
            asks_for=("amount_minor", "order_number"),
            repairs=True,
        ),
        ActionInfo(
            Action.LINK_BANK_LINE,
            "Link payout and bank line",
            "Says that a line of the bank's statement is this payout. It can be taken back on the line's page. No money moves.",
            _REPAIR,
            asks_for=("counterpart",),
            repairs=True,
            in_bulk=False,
        ),
        ActionInfo(
            Action.MARK_FRAUD,
            "Mark as fraud",
            "Marks our payment as fraud and closes this item. No money moves, and no entry is posted.",
            _ACCEPT,
        ),
        ActionInfo(
            Action.ACCEPT,
            "Accept the difference",
            "Closes this item as it stands. It opens again only if its figures change.",
            _ACCEPT,
        ),
        ActionInfo(Action.CLAIM, "Claim", "Shows everybody that you are working on it.", _INVESTIGATE),
        ActionInfo(Action.ASSIGN, "Assign", "Gives it to a colleague.", _INVESTIGATE, asks_for=("owner",)),
        ActionInfo(Action.RELEASE, "Give back", "Nobody works on it any more.", _INVESTIGATE),
        ActionInfo(
            Action.IGNORE_UNTIL,
            "Ignore until",
            "Hides it until a date. It comes back on that day, or as soon as its figures change, unless it has healed.",
            _INVESTIGATE,
            asks_for=("until",),
        ),
    )
}


def _offer(*repairs: str, requery: bool = True) -> tuple[ActionInfo, ...]:
    """The repairs of a kind between what every kind offers."""
    desk = (Action.ACCEPT, Action.CLAIM, Action.ASSIGN, Action.RELEASE, Action.IGNORE_UNTIL)
    return tuple(_ALL[name] for name in (*((Action.REQUERY,) if requery else ()), *repairs, *desk))


# A difference in amounts goes on the books: on write-offs or where it belongs, in parts, or as a loss.
_POSTED = (Action.POST_CORRECTION, Action.SPLIT, Action.WRITE_OFF)

# Refunding is not offered for what is missing at Stripe: it has nothing to give back. A currency is corrected by nobody:
# what was taken in the wrong one can only go back, and only where no sale of ours stands on it (offers.why_not_given_back).
ACTIONS: Mapping[str, tuple[ActionInfo, ...]] = {
    Kind.MISSING_IN_STRIPE: _offer(*_POSTED, Action.MARK_FRAUD),
    Kind.MISSING_IN_OUR_SYSTEM: _offer(
        Action.CREATE_MISSING_PAYMENT, Action.REPLAY_EVENT, Action.LINK, Action.REFUND_CUSTOMER
    ),
    Kind.AMOUNT_MISMATCH: _offer(*_POSTED, Action.REFUND_CUSTOMER, Action.MARK_FRAUD),
    Kind.STATUS_MISMATCH: _offer(Action.TAKE_PROVIDER_STATUS, Action.REPLAY_EVENT, Action.MARK_FRAUD),
    Kind.MISSING_IN_STRIPE_REFUND: _offer(Action.TAKE_PROVIDER_STATUS, *_POSTED),
    Kind.MISSING_IN_OUR_SYSTEM_REFUND: _offer(Action.CREATE_MISSING_REFUND, Action.REPLAY_EVENT, Action.LINK),
    Kind.AMOUNT_MISMATCH_REFUND: _offer(*_POSTED),
    Kind.STATUS_MISMATCH_REFUND: _offer(Action.TAKE_PROVIDER_STATUS, Action.REPLAY_EVENT),
    Kind.CURRENCY_MISMATCH: _offer(Action.REFUND_CUSTOMER),
    Kind.DUPLICATE_CHARGE: _offer(Action.REFUND_CUSTOMER),
    Kind.FOREIGN_INSTANCE: _offer(),
    Kind.UNKNOWN_TYPE: _offer(*_POSTED),
    Kind.FEE_VARIANCE: _offer(Action.POST_CORRECTION),
    Kind.DISPUTE_UNEXPECTED: _offer(Action.TAKE_PROVIDER_STATUS, Action.REPLAY_EVENT),
    Kind.DISPUTE_MISSING: _offer(Action.TAKE_PROVIDER_STATUS, Action.REPLAY_EVENT),
    Kind.PAYOUT_DIFFERENCE: _offer(Action.TAKE_PROVIDER_STATUS, Action.REPLAY_EVENT),
    Kind.STATEMENT_RESIDUAL: _offer(Action.WRITE_OFF, requery=False),
    Kind.REFUND_FAILED_LATE: _offer(Action.REFUND_CUSTOMER, requery=False),
    Kind.OVER_REFUNDED: _offer(requery=False),
    Kind.PAYOUT_NOT_AT_BANK: _offer(
        Action.LINK_BANK_LINE, Action.TAKE_PROVIDER_STATUS, Action.POST_CORRECTION, requery=False
    ),
    Kind.BANK_LINE_UNEXPLAINED: _offer(Action.LINK_BANK_LINE, requery=False),
    Kind.BANK_AMOUNT_MISMATCH: _offer(Action.POST_CORRECTION, Action.TAKE_PROVIDER_STATUS, requery=False),
}


# A row that stands for itself (`Kind.MISSING_IN_OUR_SYSTEM` of an adjustment) has no order and no customer.
_ADJUSTMENT = KindInfo(
    "Adjustment not in our books",
    Severity.MEDIUM,
    "Stripe changed our balance without a charge, refund, dispute or payout: a reserve, a top-up, a manual adjustment. Our "
    "books do not hold it.",
)
_OF_ADJUSTMENTS = _offer(*_POSTED)


def info_of(kind: str, object_kind: str) -> KindInfo:
    """How a discrepancy is shown."""
    return _ADJUSTMENT if (kind, object_kind) == (Kind.MISSING_IN_OUR_SYSTEM, "adjustment") else KINDS[kind]


def actions_of(kind: str, object_kind: str) -> tuple[ActionInfo, ...]:
    """What can be done about a discrepancy."""
    return _OF_ADJUSTMENTS if object_kind == "adjustment" else ACTIONS[kind]


@dataclass(frozen=True, slots=True)
class ActionInput:
    """What an action was given besides its note. Amounts are minor units."""

    order_number: str = ""
    amount_minor: int | None = None
    owner: str = ""
    until: date | None = None
    counterpart: str = ""  # what an item is linked to: the number of a bank line, or of a payout
    number: str = ""  # a payment or refund of ours
    account: str = ""  # of CORRECTED_AGAINST; empty for write-offs
    parts: tuple[tuple[str, int], ...] = ()  # (account, minor units, positive where Stripe holds more)


def info_of_action(action: str) -> ActionInfo:
    """Raises KeyError."""
    return _ALL[action]


# --- Many at once -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BulkPage:
    """How an action on many discrepancies stands: rows by state, and by state and currency what they are worth."""

    piles: Mapping[str, Pile]  # BulkItemState → Pile
    reasons: Mapping[str, int]  # why rows were refused or failed → how many
    # Of a preview: rows that who looks at it may not settle alone → what that person may, in minor units of the row's currency.
    limits: Mapping[int, int]
    above_limit: Pile

    @property
    def total(self) -> int:
        return sum(pile.count for pile in self.piles.values())


# --- What belongs together --------------------------------------------------------------------------


class Cause:
    WEBHOOK_GAP: Final = "webhook_gap"  # no event of that time reached us
    SAME_KIND: Final = "same_kind"  # the same kind of difference, at the same endpoint, at about the same time


# Differences that news would have kept from arising: they may lie in a gap of news.
HEALED_BY_NEWS: Final = (
    Kind.MISSING_IN_OUR_SYSTEM,
    Kind.STATUS_MISMATCH,
    Kind.MISSING_IN_OUR_SYSTEM_REFUND,
    Kind.STATUS_MISMATCH_REFUND,
    Kind.DISPUTE_UNEXPECTED,
    Kind.DISPUTE_MISSING,
    Kind.PAYOUT_DIFFERENCE,
)

# The part of the provider's API that tells of an object.
ENDPOINTS: Final[Mapping[str, str]] = {
    "charge": "charges",
    "refund": "refunds",
    "dispute": "disputes",
    "payout": "payouts",
    "adjustment": "balance_transactions",
    "other": "balance_transactions",
    "statement": "balance",
    "bank": "our bank",
}

# A first guess at what lies behind many differences of one kind. A hint, for whoever begins to look.
HINTS: Final[Mapping[str, str]] = {
    Kind.MISSING_IN_STRIPE: "Our books hold captures that Stripe's do not: look for test sales, a restored database, or a key "
    "of another account.",
    Kind.MISSING_IN_OUR_SYSTEM: "Stripe took money without us: look for a payment link, a terminal, or somebody at the dashboard.",
    Kind.AMOUNT_MISMATCH: "Stripe took other amounts than we hold: look for what was deployed just before.",
    Kind.STATUS_MISMATCH: "News about these payments came, and were not taken over: look at the deliveries that are parked.",
    Kind.MISSING_IN_STRIPE_REFUND: "Refunds that we hold for paid are not in Stripe's books.",
    Kind.MISSING_IN_OUR_SYSTEM_REFUND: "Refunds were made without us: ask who worked at the dashboard.",
    Kind.AMOUNT_MISMATCH_REFUND: "Stripe gave other amounts back than we hold.",
    Kind.STATUS_MISMATCH_REFUND: "Refunds came back, or went through, and we hold another end: look at the deliveries that are parked.",
    Kind.CURRENCY_MISMATCH: "Another currency was taken than asked for: look at the merchant's currency and at what was deployed.",
    Kind.DUPLICATE_CHARGE: "Customers were charged twice: look for what charges beside us, and refund them.",
    Kind.FOREIGN_INSTANCE: "Another installation shares this Stripe account: its books hold these movements.",
    Kind.UNKNOWN_TYPE: "Stripe books something new: look the category up, and update this software.",
    Kind.FEE_VARIANCE: "Stripe's fees changed after the fact: compare them with your contract.",
    Kind.DISPUTE_UNEXPECTED: "Disputes were opened, and their news did not reach us.",
    Kind.DISPUTE_MISSING: "Disputes gave money back, and their news did not reach us.",
    Kind.PAYOUT_DIFFERENCE: "Payouts changed, and their news did not reach us.",
    Kind.STATEMENT_RESIDUAL: "The statement does not close: see the runbook.",
    Kind.REFUND_FAILED_LATE: "Refunds came back from the customers' bank, one bank perhaps.",
    Kind.PAYOUT_NOT_AT_BANK: "Payouts did not arrive, or their days' bank statements were not taken in.",
    Kind.BANK_LINE_UNEXPLAINED: "The bank got money that no payout explains: look for payouts that we have not heard of.",
    Kind.BANK_AMOUNT_MISMATCH: "The bank got other amounts than were paid out: look for its charges, or an exchange.",
    Kind.OVER_REFUNDED: "Refunds were made at the dashboard beside ours: ask who worked there.",
}


@dataclass(frozen=True, slots=True)
class IncidentPage:
    """All that an incident's page shows: what its items are, and what speaks for the cause."""

    hint: str
    kinds: Mapping[str, Pile]  # kind → all of its items
    states: Mapping[str, int]
    merchants: int
    orders: int  # how many orders they are about
    news_meanwhile: int  # events of the provider's that reached us, of the time of its items
