"""Months that are closed, and reopened by two."""

from datetime import date, timedelta

import pgtrigger
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from foundation.ids import uuid7
from foundation.transition import TransitionRecord, protect_append_only, transition_guard
from reconciliation.models.choices import choices
from reconciliation.states import (
    PERIOD_EDGES,
    Decision,
    PeriodState,
)


class Period(models.Model):
    """A month of the books. Months close in their order; a closed one is reopened by two people, the last one first."""

    starts_on = models.DateField(primary_key=True)  # its first day, UTC
    state = models.CharField(
        max_length=16,
        choices=choices(PeriodState.OPEN, PeriodState.CLOSED, PeriodState.REOPENING),
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
    decision = models.CharField(max_length=8, choices=choices(Decision.APPROVED, Decision.REFUSED), blank=True)
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
