"""The provider's books as we imported them, the runs that compared them with ours, and what they found."""

from datetime import date, timedelta

import pgtrigger
from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from foundation.ids import Numbered, public_id, uuid7
from foundation.transition import TransitionRecord, never_emptied, protect_append_only, transition_guard
from reconciliation.states import (
    BULK_EDGES,
    DISCREPANCY_EDGES,
    ENDED,
    NEVER_BEGUN,
    PERIOD_EDGES,
    RUN_EDGES,
    UNRESOLVED_STATES,
    BulkItemState,
    BulkState,
    ClosedAs,
    Decision,
    DiscrepancyState,
    Outcome,
    PeriodState,
    RunState,
)
from reconciliation.types import (
    BY_RULES,
    FUZZY,
    KINDS,
    LAYOUTS,
    MOST_TOLERATED_MINOR,
    NUMBER_PREFIXES,
    OBJECT_KINDS,
    Cause,
    Leg,
    MatchedBy,
    Rule,
    Severity,
    Whose,
)


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
            # What was read or withdrawn since the audit chain was extended: a few pages for each gigabyte of rows.
            BrinIndex(fields=["seen_at", "withdrawn_at"], name="provider_txn_by_change", autosummarize=True),
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


class Incident(Numbered, models.Model):
    """Discrepancies that one cause explains (docs/reconciliation.md says which belong together). Its number stays; it is
    open while one of its items is, and opens again with them.

    Counts and sums are kept by the writer of its items: Σ |difference| by currency in minor units.
    """

    PREFIX = "inc"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    key = models.CharField(max_length=500)  # what it was founded for: the same gap, or the same kind at the same moment
    cause = models.CharField(max_length=16, choices=_choices(Cause.WEBHOOK_GAP, Cause.SAME_KIND))
    kind = models.CharField(max_length=40, blank=True)  # of a gap: empty, it has items of several
    endpoint = models.CharField(max_length=32, blank=True)  # the part of the provider's API, of ENDPOINTS
    mark = models.CharField(
        max_length=500, blank=True
    )  # what else its items share: an installation, a category, a proof
    gap_since = models.DateTimeField(null=True)  # the last event that reached us before, by the provider's clock
    gap_until = models.DateTimeField(null=True)  # the first one after; null while there is none
    first_at = models.DateTimeField()  # of its items, by the provider's clock
    last_at = models.DateTimeField()
    items = models.PositiveIntegerField(default=0)
    open_items = models.PositiveIntegerField(default=0)
    value = models.JSONField(default=dict)  # currency → minor units of all its items
    open_value = models.JSONField(default=dict)
    opened_at = models.DateTimeField(db_default=Now())
    closed_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["key"], name="incident_once_per_key"),
            models.CheckConstraint(
                condition=Q(cause=Cause.WEBHOOK_GAP, gap_since__isnull=False)
                | Q(cause=Cause.SAME_KIND, gap_since__isnull=True, gap_until__isnull=True) & ~Q(kind=""),
                name="incident_says_what_its_items_share",
            ),
            models.CheckConstraint(
                condition=Q(last_at__gte=models.F("first_at")), name="incident_ends_after_it_begins"
            ),
            models.CheckConstraint(condition=Q(open_items__lte=models.F("items")), name="incident_counts_its_items"),
            models.CheckConstraint(
                condition=Q(open_items=0, closed_at__isnull=False) | Q(open_items__gt=0, closed_at__isnull=True),
                name="incident_is_open_while_an_item_is",
            ),
        ]
        indexes = [
            models.Index(fields=["kind", "endpoint", "mark", "first_at"], name="incident_by_kind"),
            models.Index(fields=["id"], name="incident_open", condition=Q(closed_at__isnull=True)),
        ]
        triggers = [pgtrigger.Protect(name="never_deleted", operation=pgtrigger.Delete)]


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
    # The month that answers for it, its first day: its own, or the next open one where that is closed. A trigger says which.
    period = models.DateField(null=True)
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
    # What it was grouped with when it opened for the first time; for good.
    incident = models.ForeignKey(
        Incident, on_delete=models.PROTECT, null=True, related_name="discrepancies", db_index=False
    )
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
            ("approve_discrepancy", "Can approve and refuse what somebody else may not settle alone"),
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
            models.Index(
                fields=["incident", "id"], name="discrepancy_by_incident", condition=Q(incident__isnull=False)
            ),
            models.Index(fields=["period"], name="discrepancy_by_period"),
        ]
        triggers = [
            transition_guard(field="state", edges=DISCREPANCY_EDGES),
            # What is settled stays where it was settled. All else belongs to its own month or, where that is closed, to the
            # next open one; months close in their order, so that is the one after the last closed one.
            pgtrigger.Trigger(
                name="late_ones_fall_into_the_next_open_period",
                level=pgtrigger.Row,
                when=pgtrigger.Before,
                operation=pgtrigger.Insert | pgtrigger.Update,
                func="""
                    IF TG_OP = 'UPDATE' AND OLD.state = 'resolved' AND NEW.state = 'resolved' THEN
                        RETURN NEW;
                    END IF;
                    NEW.period := greatest(
                        date_trunc('month', NEW.business_date)::date,
                        (SELECT max(starts_on) + interval '1 month' FROM reconciliation_period WHERE state <> 'open')::date
                    );
                    RETURN NEW;
                """,
            ),
        ]

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

    @property
    def value_minor(self) -> int:
        """What it weighs: |difference|, else the provider's amount, else ours."""
        if self.difference_minor is not None:
            return abs(self.difference_minor)
        return self.theirs_amount_minor if self.theirs_amount_minor is not None else self.ours_amount_minor or 0


class DiscrepancyHistory(TransitionRecord):
    subject = models.ForeignKey(Discrepancy, on_delete=models.PROTECT, related_name="history")

    class Meta:
        verbose_name_plural = "discrepancy history"
        triggers = [protect_append_only()]


class DiscrepancyAction(models.Model):
    """What a person did about a discrepancy: written before it is done, completed once, kept for ever.

    What settles more than that person may settle alone waits for a second one; nothing of it is done before.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    discrepancy = models.ForeignKey(Discrepancy, on_delete=models.PROTECT, related_name="actions")
    action = models.CharField(max_length=32)
    key = models.CharField(max_length=150)  # the same key is the same press of the button
    note = models.TextField()
    by = models.CharField(max_length=150)
    at = models.DateTimeField(db_default=Now())
    lease_until = models.DateTimeField()
    inputs = models.JSONField(default=dict)
    # What it settles, in minor units; null for what settles nothing (a claim, a question).
    amount_minor = models.BigIntegerField(null=True)
    currency = models.CharField(max_length=3, blank=True, default="", db_default="")
    # What that person may settle alone, as it was then: above it a second person approves. Null: no limit applied.
    approval_above_minor = models.BigIntegerField(null=True)
    approved_by = models.CharField(max_length=150, blank=True, default="", db_default="")
    approved_at = models.DateTimeField(null=True)
    made = models.CharField(max_length=64, blank=True)  # the number of what it made, in that transaction
    outcome = models.CharField(
        max_length=8,
        choices=_choices(Outcome.WAITING, Outcome.STARTED, *ENDED),
        default=Outcome.STARTED,
    )
    result = models.TextField(blank=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(condition=~Q(note=""), name="discrepancy_action_has_a_note"),
            models.UniqueConstraint(
                fields=["discrepancy", "key"],
                condition=~Q(outcome__in=[Outcome.FAILED, Outcome.REJECTED]),
                name="discrepancy_action_once_per_key",
            ),
            models.UniqueConstraint(
                fields=["discrepancy"],
                condition=Q(outcome=Outcome.STARTED),
                name="discrepancy_one_action_at_a_time",
            ),
            models.UniqueConstraint(
                fields=["discrepancy"],
                condition=Q(outcome=Outcome.WAITING),
                name="discrepancy_one_action_waits_for_approval",
            ),
            # Maker and checker: nobody approves their own action, and nothing above the limit is begun without approval.
            models.CheckConstraint(
                condition=Q(approved_by="") | ~Q(approved_by=F("by")),
                name="discrepancy_action_approver_is_a_second_person",
            ),
            models.CheckConstraint(
                condition=Q(approved_by="", approved_at__isnull=True)
                | ~Q(approved_by="") & Q(approved_at__isnull=False),
                name="discrepancy_action_approval_is_dated",
            ),
            models.CheckConstraint(
                condition=Q(approval_above_minor__isnull=True) | Q(amount_minor__isnull=False),
                name="discrepancy_action_with_a_limit_has_an_amount",
            ),
            models.CheckConstraint(
                condition=Q(approval_above_minor__isnull=True)
                | Q(amount_minor__lte=F("approval_above_minor"))
                | ~Q(approved_by="")
                | Q(outcome__in=NEVER_BEGUN),
                name="discrepancy_action_above_the_limit_is_approved",
            ),
        ]
        triggers = [
            pgtrigger.Protect(name="never_deleted", operation=pgtrigger.Delete),
            pgtrigger.Protect(
                name="completed_once",
                operation=pgtrigger.Update,
                condition=pgtrigger.Q(old__outcome__in=list(ENDED)),
            ),
            # What was asked for, by whom, and under which limit, is no matter of later opinion.
            pgtrigger.ReadOnly(
                name="terms_are_final",
                fields=[
                    *("discrepancy", "action", "key", "note", "by", "inputs"),
                    *("amount_minor", "currency", "approval_above_minor"),
                ],
            ),
            pgtrigger.Protect(
                name="approved_once",
                operation=pgtrigger.Update,
                condition=~pgtrigger.Q(old__approved_by="")
                & pgtrigger.Q(old__approved_by__df=pgtrigger.F("new__approved_by")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.action} by {self.by}"


# --- Periods ----------------------------------------------------------------------------------------


class Period(models.Model):
    """A month of the books. Months close in their order; a closed one is reopened by two people, the last one first."""

    starts_on = models.DateField(primary_key=True)  # its first day, UTC
    state = models.CharField(
        max_length=16,
        choices=_choices(PeriodState.OPEN, PeriodState.CLOSED, PeriodState.REOPENING),
        default=PeriodState.OPEN,
        db_default=PeriodState.OPEN,
    )
    closings = models.PositiveIntegerField(default=0, db_default=0)  # how often it was closed

    class Meta:
        permissions = [
            ("close_period", "Can close a month of the books"),
            ("reopen_period", "Can ask for a closed month to be reopened, and decide what somebody else asked for"),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(starts_on__day=1), name="period_is_a_month"),
            models.CheckConstraint(
                condition=Q(state=PeriodState.OPEN) | Q(closings__gte=1), name="period_closed_has_a_closing"
            ),
        ]
        triggers = [
            transition_guard(field="state", edges=PERIOD_EDGES),
            pgtrigger.Protect(name="never_deleted", operation=pgtrigger.Delete),
            # It closes with the closing that says what it held, in the order of the months; it opens again where two people
            # said so.
            pgtrigger.Trigger(
                name="closes_and_opens_as_written_down",
                level=pgtrigger.Row,
                when=pgtrigger.Before,
                operation=pgtrigger.Update,
                func="""
                    IF OLD.state = 'open' AND NEW.state = 'closed' THEN
                        IF NEW.closings <> OLD.closings + 1 OR NOT EXISTS (
                            SELECT FROM reconciliation_periodclosing c
                            WHERE c.period_id = NEW.starts_on AND c.number = NEW.closings
                        ) THEN
                            RAISE EXCEPTION 'period %: nothing says what it held', NEW.starts_on
                                USING ERRCODE = '23514', CONSTRAINT = 'period_closed_has_its_closing';
                        ELSIF EXISTS (
                            SELECT FROM reconciliation_period p WHERE (p.starts_on < NEW.starts_on AND p.state = 'open')
                               OR (p.starts_on > NEW.starts_on AND p.state <> 'open')
                        ) THEN
                            RAISE EXCEPTION 'period %: an earlier month is open, or a later one closed', NEW.starts_on
                                USING ERRCODE = '23514', CONSTRAINT = 'period_closes_in_order';
                        END IF;
                    ELSIF NEW.closings <> OLD.closings THEN
                        RAISE EXCEPTION 'period %: it is not closed by this', NEW.starts_on USING ERRCODE = '23514';
                    ELSIF OLD.state <> 'open' AND NEW.state = 'open' THEN
                        IF NOT EXISTS (
                            SELECT FROM reconciliation_periodreopening r JOIN reconciliation_periodclosing c
                                ON c.id = r.closing_id AND c.period_id = NEW.starts_on AND c.number = NEW.closings
                            WHERE r.decision = 'approved'
                        ) THEN
                            RAISE EXCEPTION 'period %: two people reopen it', NEW.starts_on
                                USING ERRCODE = '23514', CONSTRAINT = 'period_reopened_by_two';
                        ELSIF EXISTS (
                            SELECT FROM reconciliation_period p
                            WHERE p.starts_on > NEW.starts_on AND p.state <> 'open'
                        ) THEN
                            RAISE EXCEPTION 'period %: a later month is closed', NEW.starts_on
                                USING ERRCODE = '23514', CONSTRAINT = 'period_reopens_in_order';
                        END IF;
                    END IF;
                    RETURN NEW;
                """,
            ),
        ]

    def __str__(self) -> str:
        return f"{self.starts_on:%B %Y}"

    @property
    def name(self) -> str:
        """As commands and files call it: `2026-10`."""
        return f"{self.starts_on:%Y-%m}"

    @property
    def last_day(self) -> date:
        return (self.starts_on + timedelta(days=31)).replace(day=1) - timedelta(days=1)


class PeriodHistory(TransitionRecord):
    subject = models.ForeignKey(Period, on_delete=models.PROTECT, related_name="history")

    class Meta:
        verbose_name_plural = "period history"
        triggers = [protect_append_only()]


class PeriodClosing(models.Model):
    """What a month held when it was closed. Written once; a month that was reopened gets another one."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    period = models.ForeignKey(Period, on_delete=models.PROTECT, related_name="+")
    number = models.PositiveIntegerField()
    closed_by = models.CharField(max_length=150)
    note = models.TextField()
    closed_at = models.DateTimeField(db_default=Now())
    books_begin = models.DateField()  # what the provider booked before is in the opening balances
    sealed_through = models.DateTimeField()  # the cut of the books before which nothing can be posted any more
    after = models.BigIntegerField()  # the last block of the audit chain that the month before had seen; 0 for none
    head = models.BigIntegerField()  # the last one that this closing has seen
    statements = models.JSONField()  # currency → reconciliation.types.PeriodStatement
    items = models.JSONField()  # {"states", "kinds", "late", "carried"}: how many
    trial_balance = models.JSONField()  # of our own ledger at the end of the month
    differences = models.JSONField(null=True)  # from the closing before it: reconciliation.services.periods.differences

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["period", "number"], name="period_closing_once_per_number"),
            models.CheckConstraint(condition=Q(head__gte=F("after")), name="period_closing_sees_what_was_seen_before"),
            models.CheckConstraint(
                condition=Q(number=1) | Q(differences__isnull=False), name="period_closed_again_says_what_changed"
            ),
        ]
        triggers = [
            protect_append_only(),
            # An entry's moment is never before the last cut of the books (`dated_by_the_database`). So nothing is posted into a
            # month that was cut at its end: no sale waits for a closing, or looks for one.
            pgtrigger.Trigger(
                name="closes_on_settled_books",
                level=pgtrigger.Row,
                when=pgtrigger.Before,
                operation=pgtrigger.Insert,
                func="""
                    IF coalesce(payments_sealed_through(), '-infinity') < (NEW.period_id + interval '1 month') AT TIME ZONE 'UTC' THEN
                        RAISE EXCEPTION 'period %: entries can still be posted into it', NEW.period_id
                            USING ERRCODE = '23514', CONSTRAINT = 'period_closes_on_settled_books';
                    END IF;
                    RETURN NEW;
                """,
            ),
        ]

    def __str__(self) -> str:
        return f"{self.period_id:%Y-%m}, closing {self.number}"


class PeriodReopening(models.Model):
    """Somebody asked to reopen a closed month, and what a second person said."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    closing = models.ForeignKey(PeriodClosing, on_delete=models.PROTECT, related_name="reopenings")
    asked_by = models.CharField(max_length=150)
    why = models.TextField()
    asked_at = models.DateTimeField(db_default=Now())
    decision = models.CharField(max_length=8, choices=_choices(Decision.APPROVED, Decision.REFUSED), blank=True)
    decided_by = models.CharField(max_length=150, blank=True)
    decided_why = models.TextField(blank=True)
    decided_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=~Q(why=""), name="period_reopening_has_a_reason"),
            models.CheckConstraint(
                condition=~Q(decision=Decision.APPROVED) | ~Q(decided_by=F("asked_by")),
                name="period_reopening_takes_a_second_person",
            ),
            models.CheckConstraint(
                condition=Q(decision="", decided_by="", decided_at__isnull=True)
                | ~Q(decision="") & ~Q(decided_by="") & ~Q(decided_why="") & Q(decided_at__isnull=False),
                name="period_reopening_decision_has_a_name",
            ),
            models.UniqueConstraint(
                fields=["closing"], condition=Q(decision=""), name="period_reopening_one_at_a_time"
            ),
            models.UniqueConstraint(
                fields=["closing"], condition=Q(decision=Decision.APPROVED), name="period_reopened_once_per_closing"
            ),
        ]
        triggers = [
            pgtrigger.Protect(name="never_deleted", operation=pgtrigger.Delete),
            pgtrigger.ReadOnly(name="question_is_final", fields=["closing", "asked_by", "why", "asked_at"]),
            pgtrigger.Protect(
                name="decided_once", operation=pgtrigger.Update, condition=~pgtrigger.Q(old__decision="")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.closing}, asked by {self.asked_by}"


# --- The audit chain --------------------------------------------------------------------------------


class AuditBlock(models.Model):
    """Some rows of one kind and month, chained to all blocks before: sha256 of a header that names the block before.

    PostgreSQL itself numbers it, writes the header and hashes it. Built by a daily job, never beside what it is about.
    """

    number = models.BigIntegerField(primary_key=True)  # counted without a gap
    kind = models.CharField(max_length=16)  # reconciliation.types.AUDITED
    period = models.DateField()  # the first day of the month
    rows = models.PositiveIntegerField()
    root = models.BinaryField(max_length=32)  # sha256 of its rows' hashes, in their order
    before = models.BinaryField(max_length=32)  # of the block before; zeros for the first
    header = models.TextField()
    sha256 = models.BinaryField(max_length=32)  # of the header, in UTF-8
    made_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [models.Index(fields=["period", "kind", "number"], name="audit_block_by_period")]
        triggers = [
            protect_append_only(),
            never_emptied(),
            pgtrigger.Trigger(
                name="chained_by_the_database",
                level=pgtrigger.Row,
                when=pgtrigger.Before,
                operation=pgtrigger.Insert,
                declare=[("last", "record")],
                func="""
                    SELECT b.number, b.sha256 INTO last FROM reconciliation_auditblock b ORDER BY b.number DESC LIMIT 1;
                    NEW.number := coalesce(last.number, 0) + 1;
                    NEW.before := coalesce(last.sha256, decode(repeat('00', 32), 'hex'));
                    NEW.header := jsonb_build_object(
                        'number', NEW.number, 'kind', NEW.kind, 'period', to_char(NEW.period, 'YYYY-MM'),
                        'rows', NEW.rows, 'root', encode(NEW.root, 'hex'), 'before', encode(NEW.before, 'hex'))::text;
                    NEW.sha256 := sha256(convert_to(NEW.header, 'UTF8'));
                    RETURN NEW;
                """,
            ),
            pgtrigger.Trigger(
                name="root_is_of_its_rows",
                level=pgtrigger.Row,
                when=pgtrigger.After,
                operation=pgtrigger.Insert,
                timing=pgtrigger.Deferred,
                declare=[("found", "record")],
                func="""
                    SELECT count(*) AS rows,
                           sha256(string_agg(sha256(convert_to(r.body, 'UTF8')), ''::bytea ORDER BY r.position)) AS root
                    INTO found FROM reconciliation_auditrow r WHERE r.block_id = NEW.number;
                    IF found.rows <> NEW.rows OR found.root IS DISTINCT FROM NEW.root THEN
                        RAISE EXCEPTION 'audit block % is not what its rows say', NEW.number USING ERRCODE = '23514';
                    END IF;
                    RETURN NULL;
                """,
            ),
        ]

    def __str__(self) -> str:
        return f"{self.number}: {self.kind} of {self.period:%Y-%m}"


class AuditRow(models.Model):
    """One fact as it stood when it was chained: JSON text, whose bytes are hashed."""

    id = models.BigAutoField(primary_key=True)
    block = models.ForeignKey(AuditBlock, on_delete=models.PROTECT, related_name="contents", db_index=False)
    position = models.PositiveIntegerField()  # in its block, from 0
    object = models.CharField(max_length=300)  # `raw:txn_…`: what it is about; a later row of the same name follows it
    body = models.TextField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["block", "position"], name="audit_row_once_per_position")]
        indexes = [models.Index(fields=["object", "-block"], name="audit_row_by_object")]
        triggers = [
            protect_append_only(),
            never_emptied(),
            pgtrigger.Trigger(
                name="belongs_to_an_open_block",
                level=pgtrigger.Statement,
                when=pgtrigger.After,
                operation=pgtrigger.Insert,
                referencing=pgtrigger.Referencing(new="added"),  # type: ignore[no-untyped-call]
                func="""
                    IF EXISTS (
                        SELECT FROM (SELECT DISTINCT block_id FROM added) a
                        JOIN reconciliation_auditblock b ON b.number = a.block_id
                        WHERE b.rows < (SELECT count(*) FROM reconciliation_auditrow r WHERE r.block_id = a.block_id)
                    ) THEN
                        RAISE EXCEPTION 'an audit block is complete' USING ERRCODE = '23514';
                    END IF;
                    RETURN NULL;
                """,
            ),
        ]

    def __str__(self) -> str:
        return self.object


class BulkAction(Numbered, models.Model):
    """One action on many discrepancies: a preview first, then confirmed with a note, then done row by row by workers."""

    PREFIX = "blk"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)  # made with the form: one press, one plan
    action = models.CharField(max_length=32)
    inputs = models.JSONField(default=dict)  # owner, until: the same for all rows
    scope = models.CharField(max_length=300)  # where its rows were chosen, in words
    incident = models.ForeignKey(Incident, on_delete=models.PROTECT, null=True, related_name="bulk_actions")
    state = models.CharField(
        max_length=8,
        choices=_choices(BulkState.PLANNED, BulkState.RUNNING, BulkState.STOPPED, BulkState.DONE),
        default=BulkState.PLANNED,
    )
    planned_by = models.CharField(max_length=150)
    planned_at = models.DateTimeField(db_default=Now())
    note = models.TextField(blank=True)
    by = models.CharField(max_length=150, blank=True)  # who confirmed it, and so acts on each row
    confirmed_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(state=BulkState.PLANNED) | ~Q(note="") & ~Q(by="") & Q(confirmed_at__isnull=False),
                name="bulk_action_is_confirmed_with_a_note",
            ),
            models.CheckConstraint(
                condition=Q(state=BulkState.DONE, finished_at__isnull=False)
                | ~Q(state=BulkState.DONE) & Q(finished_at__isnull=True),
                name="bulk_action_done_is_dated",
            ),
        ]
        indexes = [
            models.Index(fields=["id"], name="bulk_action_running", condition=Q(state=BulkState.RUNNING)),
            models.Index(fields=["planned_at"], name="bulk_action_plans", condition=Q(state=BulkState.PLANNED)),
        ]
        triggers = [transition_guard(field="state", edges=BULK_EDGES)]


class BulkItem(models.Model):
    """One discrepancy of a bulk action, and what came of it."""

    id = models.BigAutoField(primary_key=True)
    bulk = models.ForeignKey(BulkAction, on_delete=models.CASCADE, related_name="rows")
    discrepancy = models.ForeignKey(Discrepancy, on_delete=models.PROTECT, related_name="+")
    state = models.CharField(
        max_length=8,
        choices=_choices(BulkItemState.PLANNED, BulkItemState.REFUSED, BulkItemState.DONE, BulkItemState.FAILED),
        default=BulkItemState.PLANNED,
    )
    currency = models.CharField(max_length=3, blank=True)  # as the preview showed it
    value_minor = models.BigIntegerField(default=0)
    result = models.TextField(blank=True)  # why it cannot, or what came of it
    attempts = models.PositiveIntegerField(default=0)
    available_at = models.DateTimeField(db_default=Now())  # not tried before: a pause after a failure, or a lease
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["bulk", "discrepancy"], name="bulk_item_once_per_discrepancy"),
            models.CheckConstraint(
                condition=Q(state=BulkItemState.PLANNED) | ~Q(result=""), name="bulk_item_says_what_came_of_it"
            ),
        ]
        indexes = [
            models.Index(fields=["bulk", "id"], name="bulk_item_to_do", condition=Q(state=BulkItemState.PLANNED)),
        ]

    def __str__(self) -> str:
        return f"{self.bulk_id} {self.discrepancy_id}"


# --- Matches ----------------------------------------------------------------------------------------


class Match(models.Model):
    """An object of the provider's that our books hold as well, and why we take the two for one: as the last look saw it.

    One row for each: what differs is a discrepancy instead. No foreign keys: a large day writes a million of them.
    """

    object = models.CharField(primary_key=True, max_length=280)  # its kind and its id there: `charge:ch_…`
    ours_id = models.UUIDField()  # of our payment, refund, dispute or payout
    ours_source = models.CharField(max_length=255, blank=True)  # the id that our books know it by, where it is another
    rule = models.CharField(max_length=16, choices=_choices(*BY_RULES))
    currency = models.CharField(max_length=3)
    theirs_minor = models.BigIntegerField()  # positive for charges and refunds alike
    difference_minor = models.BigIntegerField(
        default=0
    )  # what the provider holds more than our books, as in Discrepancy
    tolerance_minor = models.BigIntegerField(null=True)  # that let the difference pass
    theirs_on = models.DateField()  # UTC
    ours_on = models.DateField()
    run_id = models.UUIDField(null=True)  # that saw it so first
    matched_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name_plural = "matches"
        constraints = [
            models.CheckConstraint(condition=Q(rule__in=list(BY_RULES)), name="match_says_why"),
            models.CheckConstraint(
                condition=Q(difference_minor=0)
                | Q(
                    tolerance_minor__isnull=False,
                    difference_minor__lte=models.F("tolerance_minor"),
                    difference_minor__gte=0 - models.F("tolerance_minor"),
                ),
                name="match_difference_within_its_tolerance",
            ),
        ]
        indexes = [
            # What a person may want to look at, beside millions that bear the same id.
            models.Index(fields=["object"], name="match_not_by_id", condition=~Q(rule=Rule.ID)),
            models.Index(fields=["theirs_on"], name="match_fuzzy_by_day", condition=Q(rule__in=FUZZY)),
            models.Index(
                fields=["currency", "theirs_on"],
                name="match_within_tolerance",
                include=["difference_minor"],
                condition=Q(tolerance_minor__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.object

    @property
    def object_kind(self) -> str:
        return self.object.partition(":")[0]

    @property
    def source(self) -> str:
        return self.object.partition(":")[2]

    @property
    def ours_minor(self) -> int:
        return self.theirs_minor - self.difference_minor * (-1 if self.object_kind == "refund" else 1)

    @property
    def number(self) -> str:
        """Ours."""
        return public_id(NUMBER_PREFIXES[self.object_kind], self.ours_id)


class Link(models.Model):
    """A person said that an object of the provider's and one of ours are one movement. Ended, never deleted."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    object_kind = models.CharField(max_length=16, choices=_choices("charge", "refund"))
    source = models.CharField(max_length=255)  # at the provider: ch_…, re_…
    ours_id = models.UUIDField()
    ours_source = models.CharField(max_length=255)  # the id that our books know it by
    by = models.CharField(max_length=150)
    why = models.TextField()
    made_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)
    ended_by = models.CharField(max_length=150, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["object_kind", "source"], condition=Q(ended_at__isnull=True), name="link_one_of_theirs"
            ),
            models.UniqueConstraint(
                fields=["object_kind", "ours_source"], condition=Q(ended_at__isnull=True), name="link_one_of_ours"
            ),
            models.CheckConstraint(condition=~Q(why=""), name="link_has_a_reason"),
            models.CheckConstraint(condition=~Q(source=models.F("ours_source")), name="link_joins_two_ids"),
        ]
        triggers = [
            pgtrigger.Protect(name="never_deleted", operation=pgtrigger.Delete),
            pgtrigger.ReadOnly(name="only_ended", exclude=["ended_at", "ended_by"]),
        ]

    def __str__(self) -> str:
        return f"{self.source} is {self.ours_source}"


class Tolerance(models.Model):
    """Up to so many minor units a merchant's payment or refund may differ from the provider's and counts as a match.

    None is the default. Terms are not changed: another tolerance is another row, and the old one has ended.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    merchant_id = models.UUIDField()
    currency = models.CharField(max_length=3)
    amount_minor = models.BigIntegerField()
    by = models.CharField(max_length=150)
    note = models.TextField()
    since = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)
    ended_by = models.CharField(max_length=150, blank=True)
    ended_why = models.TextField(blank=True)

    class Meta:
        permissions = [("set_tolerance", "Can set and end tolerances of matching")]
        constraints = [
            models.UniqueConstraint(
                fields=["merchant_id", "currency"],
                condition=Q(ended_at__isnull=True),
                name="tolerance_one_per_merchant_and_currency",
            ),
            # A rounding, not a discount.
            models.CheckConstraint(
                condition=Q(amount_minor__gte=1, amount_minor__lte=MOST_TOLERATED_MINOR),
                name="tolerance_between_1_and_1000_minor_units",
            ),
            models.CheckConstraint(condition=~Q(note=""), name="tolerance_has_a_note"),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True, ended_by="", ended_why="")
                | (Q(ended_at__isnull=False) & ~Q(ended_by="") & ~Q(ended_why="")),
                name="tolerance_end_says_who_and_why",
            ),
        ]
        triggers = [
            pgtrigger.Protect(name="never_deleted", operation=pgtrigger.Delete),
            pgtrigger.ReadOnly(name="only_ended", exclude=["ended_at", "ended_by", "ended_why"]),
            pgtrigger.Protect(
                name="ended_once",
                operation=pgtrigger.Update,
                condition=pgtrigger.Q(old__ended_at__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.currency.upper()} {self.amount_minor}"
