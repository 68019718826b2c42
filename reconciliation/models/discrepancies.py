"""The runs that compared the provider's books with ours, what they found, and what people did about it."""

import pgtrigger
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from foundation.ids import Numbered, public_id, uuid7
from foundation.transition import TransitionRecord, protect_append_only, transition_guard
from reconciliation.models.choices import choices
from reconciliation.states import (
    DISCREPANCY_EDGES,
    ENDED,
    NEVER_BEGUN,
    RUN_EDGES,
    UNRESOLVED_STATES,
    ClosedAs,
    DiscrepancyState,
    Outcome,
    RunState,
)
from reconciliation.types import (
    KINDS,
    OBJECT_KINDS,
    Cause,
    Severity,
)


class ReconciliationRun(Numbered, models.Model):
    """One comparison of one day of the provider's books, [00:00, 24:00) UTC, with ours."""

    PREFIX = "rec"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    date = models.DateField()
    # The day was not over yet: never counts as that day's run.
    provisional = models.BooleanField()
    state = models.CharField(
        max_length=16,
        choices=choices(RunState.RUNNING, RunState.COMPLETED, RunState.FAILED),
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
    cause = models.CharField(max_length=16, choices=choices(Cause.WEBHOOK_GAP, Cause.SAME_KIND))
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
    object_kind = models.CharField(max_length=16, choices=choices(*OBJECT_KINDS))
    business_date = models.DateField()  # the provider's day, ours where it has none
    # The month that answers for it, its first day: its own, or the next open one where that is closed. A trigger says which.
    period = models.DateField(null=True)
    severity = models.CharField(max_length=8, choices=choices(Severity.HIGH, Severity.MEDIUM, Severity.LOW))
    state = models.CharField(
        max_length=20, choices=choices(*UNRESOLVED_STATES, DiscrepancyState.RESOLVED), default=DiscrepancyState.OPEN
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
        max_length=16, choices=choices(ClosedAs.AUTO, ClosedAs.FIXED, ClosedAs.ACCEPTED), blank=True
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
            models.Index(fields=["intent"], name="discrepancy_by_intent", condition=~Q(intent="")),
            models.Index(fields=["charge"], name="discrepancy_by_charge", condition=~Q(charge="")),
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
        """What it weighs, never below 0: the difference, else the provider's amount, else ours."""
        if self.difference_minor is not None:
            return abs(self.difference_minor)
        return abs(self.theirs_amount_minor if self.theirs_amount_minor is not None else self.ours_amount_minor or 0)

    @property
    def stake_minor(self) -> int:
        """What settling it settles, never below 0: the difference; where both sides say the same amount, or no difference can be
        told, all of it."""
        return abs(self.difference_minor or 0) or max(
            abs(self.ours_amount_minor or 0), abs(self.theirs_amount_minor or 0)
        )


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
        choices=choices(Outcome.WAITING, Outcome.STARTED, *ENDED),
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
