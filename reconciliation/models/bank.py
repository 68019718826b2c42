"""The bank's statements, and which of their lines are which payout."""

import pgtrigger
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from foundation.ids import Numbered, uuid7
from foundation.transition import protect_append_only
from reconciliation.models.choices import choices
from reconciliation.models.provider import StatementFile
from reconciliation.types import (
    Leg,
    MatchedBy,
)


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
        indexes = [
            models.Index(fields=["currency", "last_day"], name="bank_statement_by_reach"),
            models.Index(fields=["account", "currency", "last_day"], name="bank_statement_by_account"),
        ]
        triggers = [
            protect_append_only(),
            # No booking is lost on the way in, and none is there twice: what stands under it leads from one balance to the other.
            pgtrigger.Trigger(
                name="bank_statement_adds_up",
                level=pgtrigger.Row,
                when=pgtrigger.After,
                operation=pgtrigger.Insert,
                timing=pgtrigger.Deferred,
                declare=[("found", "record")],
                func="""
                    SELECT count(*) AS lines, coalesce(sum(b.amount_minor), 0) AS amount_minor INTO found
                    FROM reconciliation_bankstatementline l JOIN reconciliation_bankline b ON b.id = l.line_id
                    WHERE l.statement_id = NEW.id;
                    IF found.lines <> NEW.lines OR NEW.opening_minor + found.amount_minor <> NEW.closing_minor THEN
                        RAISE EXCEPTION 'bank statement % does not add up', NEW.id USING ERRCODE = '23514';
                    END IF;
                    RETURN NULL;
                """,
            ),
        ]

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
    # Which told it first; null of lines that were read before this was noted.
    statement = models.ForeignKey(BankStatement, on_delete=models.PROTECT, related_name="+", null=True, db_index=False)
    line = models.PositiveIntegerField()  # where it stood in the file

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["account", "key"], name="bank_line_once"),
            models.CheckConstraint(condition=~Q(key=""), name="bank_line_has_a_key"),
        ]
        indexes = [
            models.Index(fields=["booked_on", "id"], name="bank_line_by_day"),
            models.Index(fields=["booked_on", "id"], name="bank_line_of_provider", condition=Q(of_provider=True)),
            models.Index(fields=["reference"], name="bank_line_by_reference", condition=~Q(reference="")),
            models.Index(fields=["statement"], name="bank_line_by_statement"),
        ]
        triggers = [protect_append_only()]


class BankStatementLine(models.Model):
    """A line stands in a statement: in several, where a day's and a week's tell the same booking."""

    id = models.BigAutoField(primary_key=True)
    statement = models.ForeignKey(BankStatement, on_delete=models.PROTECT, related_name="contents", db_index=False)
    line = models.ForeignKey(BankLine, on_delete=models.PROTECT, related_name="+")
    place = models.PositiveIntegerField()  # among the lines of its file, from 1

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["statement", "line"], name="bank_statement_line_once"),
            models.UniqueConstraint(fields=["statement", "place"], name="bank_statement_place_once"),
        ]
        triggers = [protect_append_only()]


class BankMatch(models.Model):
    """A bank line is a payout's money: why, who says so, and, where a person took it back, who and why."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    line = models.ForeignKey(BankLine, on_delete=models.PROTECT, related_name="matches")
    payout_id = models.UUIDField()
    # A payout that came back has a line of its arrival, and one of its return.
    leg = models.CharField(max_length=8, choices=choices(Leg.ARRIVAL, Leg.RETURN))
    how = models.CharField(max_length=16, choices=choices(MatchedBy.TRACE_ID, MatchedBy.AMOUNT, MatchedBy.PERSON))
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
