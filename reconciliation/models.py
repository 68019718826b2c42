"""The provider's books as we imported them, the runs that compared them with ours, and what they found."""

import pgtrigger
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from foundation.ids import Numbered, public_id, uuid7
from foundation.transition import TransitionRecord, protect_append_only, transition_guard
from reconciliation.states import (
    DISCREPANCY_EDGES,
    RUN_EDGES,
    UNRESOLVED_STATES,
    ClosedAs,
    DiscrepancyState,
    Outcome,
    RunState,
)
from reconciliation.types import KINDS, LAYOUTS, OBJECT_KINDS, Leg, MatchedBy, Severity, Whose


def _choices(*values: str) -> list[tuple[str, str]]:
    return [(value, value.replace("_", " ").capitalize()) for value in values]


class ProviderTransaction(models.Model):
    """One row of the provider's books (a balance transaction, `txn_…`), as it was last read there.

    Amounts are minor units with the provider's sign: a charge is positive, a refund negative; net = amount − fee.
    """

    id = models.CharField(max_length=255, primary_key=True)
    type = models.CharField(max_length=64)
    reporting_category = models.CharField(max_length=64)
    source = models.CharField(max_length=255)  # ch_…, re_…, po_…: what is matched on
    amount_minor = models.BigIntegerField()
    fee_minor = models.BigIntegerField()
    net_minor = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    status = models.CharField(max_length=16)
    created_at = models.DateTimeField()  # the provider's clock: decides the day
    available_at = models.DateTimeField()
    payment_intent = models.CharField(max_length=255, blank=True)
    charge = models.CharField(max_length=255, blank=True)
    source_status = models.CharField(max_length=32, blank=True)
    # What the source's metadata say: our own numbers where we opened it, anything where we did not.
    order_reference = models.CharField(max_length=500, blank=True)
    payment_number = models.CharField(max_length=500, blank=True)
    instance = models.CharField(max_length=500, blank=True)
    sha256 = models.BinaryField(max_length=32)  # of the row as it was read
    imported_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(db_default=Now())
    # Set where a later complete read of its day did not bring the row any more. Never matched from then on.
    withdrawn_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["created_at"], name="provider_txn_by_day"),
            models.Index(fields=["source"], name="provider_txn_by_source"),
            models.Index(fields=["payment_number"], name="provider_txn_by_payment", condition=~Q(payment_number="")),
        ]

    def __str__(self) -> str:
        return self.id


class RawRow(models.Model):
    """A row of the provider's books exactly as it came, kept by its hash: the voucher behind a ProviderTransaction."""

    sha256 = models.BinaryField(primary_key=True, max_length=32)  # of `body`, in UTF-8
    body = models.TextField()  # JSON: what the API answered, or the columns of a statement file
    first_seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        triggers = [protect_append_only()]

    def __str__(self) -> str:
        return bytes(self.sha256).hex()[:12]


class ProviderRead(models.Model):
    """One reading of the provider's books for a window: how far it came. One that was cut short is gone on with."""

    since = models.DateTimeField()
    until = models.DateTimeField()
    # Rows come newest first: the first one that this reading brought, and the last one that is stored.
    newest = models.CharField(max_length=255, blank=True)
    reached = models.CharField(max_length=255, blank=True)
    rows = models.PositiveIntegerField(default=0)
    resumed = models.PositiveIntegerField(default=0)  # how often it was gone on with
    began_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)
    statement = models.CharField(max_length=64, blank=True)  # the file's hash, where it was a file that told it all

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["since", "until"],
                condition=Q(finished_at__isnull=True),
                name="provider_read_one_open_per_window",
            ),
            models.CheckConstraint(condition=Q(until__gt=models.F("since")), name="provider_read_window_has_a_length"),
        ]

    def __str__(self) -> str:
        return f"{self.since:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M}"


class StatementFile(models.Model):
    """A statement file, the provider's or a bank's: taken in as a whole, or refused with what is wrong with which line.

    The same file a second time changes nothing, once it was taken in.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    sha256 = models.CharField(max_length=64)  # of the file's bytes
    name = models.CharField(max_length=255)
    # Empty where it could not be told.
    layout = models.CharField(max_length=16, blank=True, choices=_choices(*LAYOUTS))
    whose = models.CharField(
        max_length=8,
        choices=_choices(Whose.PROVIDER, Whose.BANK),
        default=Whose.PROVIDER,
        db_default=Whose.PROVIDER,
    )
    rows = models.PositiveIntegerField()
    added = models.PositiveIntegerField()  # rows that nobody had told us before
    first_day = models.DateField(null=True)  # of its rows, UTC; null where it holds none
    last_day = models.DateField(null=True)
    by = models.CharField(max_length=150)
    imported_at = models.DateTimeField(db_default=Now())
    refused = models.BooleanField(default=False, db_default=False)
    problem_count = models.PositiveIntegerField(default=0, db_default=0)
    problems = models.JSONField(default=list, db_default=[])  # the first of them: [line, reason]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["sha256"], condition=Q(refused=False), name="statement_file_once"),
            models.CheckConstraint(
                condition=Q(refused=False, problem_count=0) | Q(refused=True, problem_count__gt=0, added=0),
                name="statement_file_taken_in_or_refused",
            ),
        ]
        permissions = [("import_statement", "Can import statement files")]
        triggers = [protect_append_only()]

    def __str__(self) -> str:
        return self.name


class BankStatement(models.Model):
    """A bank's statement of one account, as a file brought it: its opening balance and its lines lead to the closing one."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    file = models.ForeignKey(StatementFile, on_delete=models.PROTECT, related_name="statements")
    account = models.CharField(max_length=64)  # IBAN, or what the bank calls it
    currency = models.CharField(max_length=3)
    number = models.CharField(max_length=64, blank=True)  # the bank's
    # What it tells of, both days included.
    first_day = models.DateField()
    last_day = models.DateField()
    # Null where the layout knows no balances.
    opening_minor = models.BigIntegerField(null=True)
    closing_minor = models.BigIntegerField(null=True)
    lines = models.PositiveIntegerField()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(last_day__gte=models.F("first_day")), name="bank_statement_has_a_period"
            ),
        ]
        indexes = [models.Index(fields=["currency", "last_day"], name="bank_statement_by_reach")]
        triggers = [protect_append_only()]

    def __str__(self) -> str:
        return f"{self.account} {self.first_day} to {self.last_day}"


class BankLine(Numbered, models.Model):
    """One booking on an account of ours at a bank, as its statement tells it. Positive: money came in."""

    PREFIX = "bnk"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    account = models.CharField(max_length=64)
    # Names the line within its account, in whatever file it comes (`reconciliation.bank.staging`).
    key = models.CharField(max_length=255)
    booked_on = models.DateField()
    valued_on = models.DateField(null=True)
    amount_minor = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    reference = models.CharField(max_length=255, blank=True)  # the bank's own
    references = models.TextField(blank=True)  # all others, with blanks between: end-to-end id, the customer's, …
    counterparty = models.CharField(max_length=255, blank=True)
    text = models.TextField(blank=True)
    of_provider = models.BooleanField()  # whether it says that the money came from the provider, or went there
    sha256 = models.BinaryField(max_length=32)  # of the line as it stood in the file: RawRow
    file = models.ForeignKey(StatementFile, on_delete=models.PROTECT, related_name="+")
    line = models.PositiveIntegerField()  # where it stood there

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "key"], name="bank_line_once"),
            models.CheckConstraint(condition=~Q(key=""), name="bank_line_has_a_key"),
        ]
        indexes = [
            models.Index(fields=["booked_on", "id"], name="bank_line_by_day"),
            models.Index(fields=["booked_on", "id"], name="bank_line_of_provider", condition=Q(of_provider=True)),
            models.Index(fields=["reference"], name="bank_line_by_reference", condition=~Q(reference="")),
        ]
        triggers = [protect_append_only()]


class BankMatch(models.Model):
    """A bank line is a payout's money: why, who says so, and, where a person took it back, who and why."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    line = models.ForeignKey(BankLine, on_delete=models.PROTECT, related_name="matches")
    payout_id = models.UUIDField()
    # A payout that came back has a line of its arrival, and one of its return.
    leg = models.CharField(max_length=8, choices=_choices(Leg.ARRIVAL, Leg.RETURN))
    how = models.CharField(max_length=16, choices=_choices(MatchedBy.TRACE_ID, MatchedBy.AMOUNT, MatchedBy.PERSON))
    why = models.TextField()
    by = models.CharField(max_length=150)
    made_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)
    ended_by = models.CharField(max_length=150, blank=True)
    ended_why = models.TextField(blank=True)

    class Meta:
        verbose_name_plural = "bank matches"
        constraints = [
            models.UniqueConstraint(fields=["line"], condition=Q(ended_at=None), name="bank_line_is_one_payout"),
            models.UniqueConstraint(
                fields=["payout_id", "leg"], condition=Q(ended_at=None), name="payout_leg_is_one_bank_line"
            ),
            models.CheckConstraint(
                condition=Q(ended_at=None, ended_by="", ended_why="")
                | Q(ended_at__isnull=False) & ~Q(ended_by="") & ~Q(ended_why=""),
                name="bank_match_ended_says_why",
            ),
        ]
        triggers = [
            pgtrigger.Protect(name="never_deleted", operation=pgtrigger.Delete),
            pgtrigger.Protect(
                name="ended_once", operation=pgtrigger.Update, condition=pgtrigger.Q(old__ended_at__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.line_id}: {self.how}"


class BooksStart(models.Model):
    """Since when our books answer for the provider's account, and what it held for us then. One row, written at go-live.

    Older rows are no breaks: they are in the opening balances.
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    starts_on = models.DateField()  # its first moment, UTC
    balances = models.JSONField(default=dict)  # currency → minor units
    by = models.CharField(max_length=150)
    note = models.TextField()
    made_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name_plural = "start of the books"
        constraints = [
            models.CheckConstraint(condition=Q(id=1), name="books_start_is_one_row"),
            models.CheckConstraint(condition=~Q(note=""), name="books_start_has_a_note"),
        ]
        triggers = [protect_append_only()]

    def __str__(self) -> str:
        return f"{self.starts_on}"


class DayTotal(models.Model):
    """What the provider booked on one UTC day, by currency and reporting category: Σ of its rows as we hold them."""

    id = models.BigAutoField(primary_key=True)
    date = models.DateField()
    currency = models.CharField(max_length=3)
    reporting_category = models.CharField(max_length=64)
    rows = models.PositiveIntegerField()
    gross_minor = models.BigIntegerField()
    fee_minor = models.BigIntegerField()
    net_minor = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["date", "currency", "reporting_category"], name="day_total_once_per_category"
            ),
            models.CheckConstraint(
                condition=Q(net_minor=models.F("gross_minor") - models.F("fee_minor")), name="day_total_net"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.date} {self.currency} {self.reporting_category}"


class ProviderBalanceReading(models.Model):
    """What the provider said that it held for us, and which of its rows that included (payments.types.BalanceReading)."""

    id = models.BigAutoField(primary_key=True)
    taken_at = models.DateTimeField(db_default=Now())
    balances = models.JSONField()  # currency → {"available", "pending"} in minor units
    through_at = models.DateTimeField(null=True)
    edge = models.JSONField(default=list)
    unsure = models.JSONField(default=list)

    class Meta:
        indexes = [models.Index(fields=["through_at"], name="balance_reading_by_moment")]
        triggers = [protect_append_only()]

    def __str__(self) -> str:
        return f"{self.taken_at:%Y-%m-%d %H:%M:%S}"


class ReconciliationRun(Numbered, models.Model):
    """One comparison of one day of the provider's books, [00:00, 24:00) UTC, with ours."""

    PREFIX = "rec"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    date = models.DateField()
    # The day was not over yet: never counts as that day's run.
    provisional = models.BooleanField()
    state = models.CharField(
        max_length=16,
        choices=_choices(RunState.RUNNING, RunState.COMPLETED, RunState.FAILED),
        default=RunState.RUNNING,
    )
    by = models.CharField(max_length=150)
    started_at = models.DateTimeField(db_default=Now())
    lease_until = models.DateTimeField()  # a process that dies leaves the run behind: from here on it is taken over
    finished_at = models.DateTimeField(null=True)
    duration_ms = models.PositiveIntegerField(null=True)
    imported = models.PositiveIntegerField(default=0)  # rows read from the provider
    ours_count = models.PositiveIntegerField(default=0)
    ours_totals = models.JSONField(default=dict)  # currency → minor units, charges less refunds, before fees
    theirs_count = models.PositiveIntegerField(default=0)
    theirs_totals = models.JSONField(default=dict)
    matched = models.PositiveIntegerField(default=0)
    kinds = models.JSONField(default=dict)  # kind → {"new", "persisting", "resolved", "timing"}
    residual = models.JSONField(default=dict)  # currency → minor units that nothing accounts for
    # currency → what the statement of the day says, and how it was proved (`reconciliation.books.Statement`)
    statement = models.JSONField(default=dict, db_default={})  # the default of older releases, too
    error = models.TextField(blank=True)

    class Meta:
        permissions = [("start_reconciliation", "Can start a reconciliation run")]
        constraints = [
            models.UniqueConstraint(
                fields=["date"], condition=Q(state=RunState.RUNNING), name="run_one_at_a_time_per_date"
            ),
            models.CheckConstraint(
                condition=~Q(state=RunState.COMPLETED) | Q(finished_at__isnull=False, duration_ms__isnull=False),
                name="run_completed_is_timed",
            ),
            models.CheckConstraint(condition=~Q(state=RunState.FAILED) | ~Q(error=""), name="run_failed_says_why"),
        ]
        indexes = [models.Index(fields=["date", "state"], name="run_by_date")]
        triggers = [transition_guard(field="state", edges=RUN_EDGES)]

    def __str__(self) -> str:
        return f"{self.date:%Y-%m-%d}{' (provisional)' if self.provisional else ''}"


class Discrepancy(Numbered, models.Model):
    """One difference between our books and the provider's: found by runs, closed by a run or a person.

    Amounts are positive minor units for charges and refunds alike; `difference_minor` is what the provider holds more
    than our books say (so a refund that only the provider knows is negative), null where the currencies differ.
    """

    PREFIX = "dis"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    fingerprint = models.CharField(max_length=300)  # kind and source: the same difference is the same row
    kind = models.CharField(max_length=40, choices=[(kind, info.label) for kind, info in KINDS.items()])
    object_kind = models.CharField(max_length=16, choices=_choices(*OBJECT_KINDS))
    business_date = models.DateField()  # the provider's day, ours where it has none
    severity = models.CharField(max_length=8, choices=_choices(Severity.HIGH, Severity.MEDIUM, Severity.LOW))
    state = models.CharField(
        max_length=20, choices=_choices(*UNRESOLVED_STATES, DiscrepancyState.RESOLVED), default=DiscrepancyState.OPEN
    )
    owner = models.CharField(max_length=150, blank=True)  # who claimed it, by username
    merchant_id = models.UUIDField(null=True)
    source = models.CharField(max_length=255)  # ch_…, re_…, dp_…, po_…, txn_…; of a residual, its currency and proof
    intent = models.CharField(max_length=255, blank=True)
    charge = models.CharField(max_length=255, blank=True)
    payment_id = models.UUIDField(null=True)
    refund_id = models.UUIDField(null=True)
    order_reference = models.CharField(max_length=500, blank=True)
    ours_amount_minor = models.BigIntegerField(null=True)
    ours_currency = models.CharField(max_length=3, blank=True)
    ours_status = models.CharField(max_length=32, blank=True)
    ours_at = models.DateTimeField(null=True)
    theirs_amount_minor = models.BigIntegerField(null=True)
    theirs_currency = models.CharField(max_length=3, blank=True)
    theirs_status = models.CharField(max_length=32, blank=True)
    theirs_at = models.DateTimeField(null=True)
    difference_minor = models.BigIntegerField(null=True)
    evidence = models.JSONField(default=dict)  # {"matched_by", "transactions": [txn_…], "timing", "instance"}
    becomes_break_at = models.DateTimeField(null=True)
    ignored_until = models.DateField(null=True)
    cycle = models.PositiveIntegerField(default=1)  # counts how often it was opened: an action is done once a cycle
    # Null where news told of it before any run saw it.
    first_seen_run = models.ForeignKey(ReconciliationRun, on_delete=models.PROTECT, null=True, related_name="+")
    last_seen_run = models.ForeignKey(ReconciliationRun, on_delete=models.PROTECT, null=True, related_name="+")
    first_seen_at = models.DateTimeField(db_default=Now())
    closed_as = models.CharField(
        max_length=16, choices=_choices(ClosedAs.AUTO, ClosedAs.FIXED, ClosedAs.ACCEPTED), blank=True
    )
    resolved_at = models.DateTimeField(null=True)
    resolved_by = models.CharField(max_length=150, blank=True)
    # A run that looked after the resolution and found both sides equal.
    verified_at = models.DateTimeField(null=True)
    verified_by_run = models.ForeignKey(ReconciliationRun, on_delete=models.PROTECT, null=True, related_name="+")

    class Meta:
        verbose_name_plural = "discrepancies"
        permissions = [
            ("investigate_discrepancy", "Can claim, re-query and ignore discrepancies"),
            ("repair_discrepancy", "Can repair discrepancies: create, correct, take over, refund"),
            ("accept_discrepancy", "Can accept a difference or mark it as fraud"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["fingerprint"], name="discrepancy_once_per_fingerprint"),
            models.CheckConstraint(
                condition=Q(state=DiscrepancyState.RESOLVED, resolved_at__isnull=False) & ~Q(closed_as="")
                | ~Q(state=DiscrepancyState.RESOLVED) & Q(resolved_at__isnull=True, closed_as="", resolved_by=""),
                name="discrepancy_resolved_says_how",
            ),
            models.CheckConstraint(
                condition=~Q(state=DiscrepancyState.TIMING) | Q(becomes_break_at__isnull=False),
                name="discrepancy_timing_has_an_end",
            ),
            models.CheckConstraint(
                condition=~Q(state=DiscrepancyState.IGNORED) | Q(ignored_until__isnull=False),
                name="discrepancy_ignored_until_a_date",
            ),
        ]
        indexes = [
            # What every run looks at again, and what the desk lists.
            models.Index(
                fields=["business_date"], name="discrepancy_unresolved", condition=Q(state__in=UNRESOLVED_STATES)
            ),
            models.Index(
                fields=["id"],
                name="discrepancy_to_verify",
                condition=Q(closed_as=ClosedAs.FIXED, verified_at__isnull=True),
            ),
            models.Index(fields=["business_date", "kind"], name="discrepancy_by_date"),
            models.Index(fields=["order_reference"], name="discrepancy_by_order"),
        ]
        triggers = [transition_guard(field="state", edges=DISCREPANCY_EDGES)]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.source}"

    @property
    def payment_number(self) -> str:
        return public_id("pay", self.payment_id) if self.payment_id else ""

    @property
    def refund_number(self) -> str:
        return public_id("ref", self.refund_id) if self.refund_id else ""

    @property
    def currency(self) -> str:
        return self.theirs_currency or self.ours_currency


class DiscrepancyHistory(TransitionRecord):
    subject = models.ForeignKey(Discrepancy, on_delete=models.PROTECT, related_name="history")

    class Meta:
        verbose_name_plural = "discrepancy history"
        triggers = [protect_append_only()]


class DiscrepancyAction(models.Model):
    """What a person did about a discrepancy: written before it is done, completed once, kept for ever."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    discrepancy = models.ForeignKey(Discrepancy, on_delete=models.PROTECT, related_name="actions")
    action = models.CharField(max_length=32)
    key = models.CharField(max_length=150)  # the same key is the same press of the button
    note = models.TextField()
    by = models.CharField(max_length=150)
    at = models.DateTimeField(db_default=Now())
    lease_until = models.DateTimeField()
    inputs = models.JSONField(default=dict)
    made = models.CharField(max_length=64, blank=True)  # the number of what it made, in that transaction
    outcome = models.CharField(
        max_length=8, choices=_choices(Outcome.STARTED, Outcome.OK, Outcome.FAILED), default=Outcome.STARTED
    )
    result = models.TextField(blank=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(condition=~Q(note=""), name="discrepancy_action_has_a_note"),
            models.UniqueConstraint(
                fields=["discrepancy", "key"],
                condition=~Q(outcome=Outcome.FAILED),
                name="discrepancy_action_once_per_key",
            ),
            models.UniqueConstraint(
                fields=["discrepancy"],
                condition=Q(outcome=Outcome.STARTED),
                name="discrepancy_one_action_at_a_time",
            ),
        ]
        triggers = [
            pgtrigger.Protect(name="never_deleted", operation=pgtrigger.Delete),
            pgtrigger.Protect(
                name="completed_once",
                operation=pgtrigger.Update,
                condition=pgtrigger.Q(old__outcome__in=["ok", "failed"]),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.action} by {self.by}"
