"""Which of the provider's objects is which of ours, and why."""

import pgtrigger
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from foundation.ids import public_id, uuid7
from reconciliation.models.choices import choices
from reconciliation.types import (
    BY_RULES,
    FUZZY,
    MOST_TOLERATED_MINOR,
    NUMBER_PREFIXES,
    Rule,
)


class Match(models.Model):
    """An object of the provider's that our books hold as well, and why we take the two for one: as the last look saw it.

    One row for each of theirs and of ours: what differs is a discrepancy instead. No foreign keys: a large day writes a million
    of them.
    """

    object = models.CharField(primary_key=True, max_length=280)  # its kind and its id there: `charge:ch_…`
    ours_id = models.UUIDField()  # of our payment, refund, dispute or payout
    ours_source = models.CharField(max_length=255, blank=True)  # the id that our books know it by, where it is another
    rule = models.CharField(max_length=16, choices=choices(*BY_RULES))
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
            # A second charge of one payment is money that somebody has to be told of. (An id is of one kind alone: it is a UUID.)
            # By its intent a payment stands beside each of its attempts that came to nothing.
            models.UniqueConstraint(fields=["ours_id"], name="match_one_of_ours", condition=~Q(rule=Rule.INTENT)),
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
            # Where the provider's books come to hold what ours name, the match is taken apart.
            models.Index(fields=["ours_source"], name="match_under_another_id", condition=~Q(ours_source="")),
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
    object_kind = models.CharField(max_length=16, choices=choices("charge", "refund"))
    source = models.CharField(max_length=255)  # at the provider: ch_…, re_…
    ours_id = models.UUIDField()
    ours_source = models.CharField(max_length=255)  # the id that our books know it by
    by = models.CharField(max_length=150)
    why = models.TextField()
    made_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True)
    ended_by = models.CharField(max_length=150, blank=True)
    ended_why = models.TextField(blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["object_kind", "source"], condition=Q(ended_at__isnull=True), name="link_one_of_theirs"
            ),
            models.UniqueConstraint(
                fields=["object_kind", "ours_source"], condition=Q(ended_at__isnull=True), name="link_one_of_ours"
            ),
            models.CheckConstraint(condition=~Q(why=""), name="link_has_a_reason"),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True) | (~Q(ended_by="") & ~Q(ended_why="")), name="link_end_has_a_reason"
            ),
            models.CheckConstraint(condition=~Q(source=models.F("ours_source")), name="link_joins_two_ids"),
        ]
        triggers = [
            pgtrigger.Protect(name="never_deleted", operation=pgtrigger.Delete),
            pgtrigger.ReadOnly(name="only_ended", exclude=["ended_at", "ended_by", "ended_why"]),
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


class RunPart(models.Model):
    """A part of a large day that a helper has looked at for a run: what agreed, added up. Gone with the run's end."""

    id = models.BigAutoField(primary_key=True)
    run_id = models.UUIDField()
    look_id = models.UUIDField()
    part = models.PositiveSmallIntegerField()
    sums = models.JSONField()  # as `agreement.Sum`

    class Meta:
        constraints = [models.UniqueConstraint(fields=["look_id", "part"], name="run_part_once")]

    def __str__(self) -> str:
        return f"{self.part}"


class RunPartLeft(models.Model):
    """An object of such a part that did not agree at first sight. No foreign keys: there may be as many as the day has rows."""

    id = models.BigAutoField(primary_key=True)
    run_id = models.UUIDField()
    look_id = models.UUIDField()
    part = models.PositiveSmallIntegerField()
    kind = models.CharField(max_length=16)
    source = models.CharField(max_length=255)

    class Meta:
        indexes = [models.Index(fields=["look_id", "part"], name="run_part_left_by_part")]

    def __str__(self) -> str:
        return self.source
