"""Stock, what is held of it under which reference, the log of every movement, and the daily proof that all three agree."""

import pgtrigger
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from foundation.ids import uuid7
from foundation.transition import protect_append_only

_AVAILABLE = F("on_hand") - F("reserved")


class Stock(models.Model):
    """How many pieces of a product there are. A product without a row has none."""

    product = models.OneToOneField("catalog.Product", on_delete=models.PROTECT, primary_key=True, related_name="+")
    merchant = models.ForeignKey("catalog.Merchant", on_delete=models.PROTECT, related_name="+")
    on_hand = models.BigIntegerField(default=0)
    reserved = models.BigIntegerField(default=0)
    version = models.BigIntegerField(default=0)  # counts the changes
    # From here down it is low; empty: it never is.
    low_threshold = models.BigIntegerField(null=True, blank=True)
    # Since when it has been low, which was told then. What is only given back (an order that expired) does not end it, or
    # a few abandoned carts would tell it all day; what comes in does.
    low_noticed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "stock"
        verbose_name_plural = "stock"
        constraints = [
            models.CheckConstraint(
                condition=Q(reserved__gte=0, reserved__lte=F("on_hand")), name="stock_reserved_within_on_hand"
            ),
            models.CheckConstraint(
                condition=Q(low_threshold__isnull=True) | Q(low_threshold__gte=0),
                name="stock_low_threshold_not_negative",
            ),
            models.CheckConstraint(
                condition=Q(low_threshold__isnull=True)
                | Q(low_threshold__lt=_AVAILABLE)
                | Q(low_noticed_at__isnull=False),
                name="stock_that_is_low_is_noticed",
            ),
        ]
        indexes = [
            # Not on the counts themselves: an index on what every sale changes would make every sale dearer.
            models.Index(fields=["product"], name="stock_that_is_low", condition=Q(low_noticed_at__isnull=False))
        ]
        # The daily proof goes by these rows: a log without one would be proved by nobody.
        triggers = [pgtrigger.Protect(name="never_deleted", operation=pgtrigger.Delete)]

    def __str__(self) -> str:
        return f"{self.on_hand} on hand, {self.reserved} reserved"

    @property
    def available(self) -> int:
        return self.on_hand - self.reserved

    @property
    def is_low(self) -> bool:
        return self.low_threshold is not None and self.available <= self.low_threshold


class StockHold(models.Model):
    """What one reference (an order, or a caller's own name) holds of a product: promised, or gone under its name.

    Merchant and product carry no constraint in the database: the stock row, which each statement locks first, does,
    and a foreign key's lock on the merchant would be one that all checkouts share.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    merchant = models.ForeignKey(
        "catalog.Merchant", on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    reference = models.CharField(max_length=100)
    product = models.ForeignKey("catalog.Product", on_delete=models.PROTECT, related_name="+", db_constraint=False)
    reserved = models.BigIntegerField(default=0)
    sold = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["merchant", "reference", "product"], name="stock_hold_once_per_reference_and_product"
            ),
            models.CheckConstraint(condition=Q(reserved__gte=0, sold__gte=0), name="stock_hold_never_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.reference}: {self.reserved} reserved, {self.sold} sold"


def _changing(*operations: str, on_hand: int, reserved: int) -> Q:
    """These operations change both counts by so many times their quantity."""
    return Q(operation__in=operations, on_hand_change=F("quantity") * on_hand, reserved_change=F("quantity") * reserved)


_CHANGES = (
    _changing("restock", "release", "return_sold", "adjust", on_hand=1, reserved=0)
    | _changing("deduct", "adjust", on_hand=-1, reserved=0)
    | _changing("reserve", on_hand=0, reserved=1)
    | _changing("release_reserved", on_hand=0, reserved=-1)
    | _changing("commit", on_hand=-1, reserved=-1)
)


class StockMovement(models.Model):
    """The log: one row a movement, written once. Its on_hand_change sums up to the stock's on_hand, for ever."""

    class Operation(models.TextChoices):
        RESTOCK = "restock"
        RESERVE = "reserve"  # an order was placed
        COMMIT = "commit"  # it was paid: reserved → sold
        RELEASE_RESERVED = "release_reserved"  # it was cancelled or expired
        RETURN_SOLD = "return_sold"  # it was paid and then cancelled before shipping
        DEDUCT = "deduct"  # by API, under a caller's reference
        RELEASE = "release"  # back again
        ADJUST = "adjust"  # a count found something else

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    merchant = models.ForeignKey(
        "catalog.Merchant", on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    product = models.ForeignKey(
        "catalog.Product", on_delete=models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    key = models.CharField(max_length=300)  # what makes the movement happen once
    operation = models.CharField(max_length=16, choices=Operation.choices)
    quantity = models.BigIntegerField()
    on_hand_change = models.BigIntegerField()
    reserved_change = models.BigIntegerField()
    on_hand_after = models.BigIntegerField()
    reserved_after = models.BigIntegerField()
    reference = models.CharField(max_length=100, blank=True)
    by = models.CharField(max_length=150)
    reason = models.TextField(blank=True)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["merchant", "key"], name="stock_movement_once_per_key"),
            models.CheckConstraint(condition=Q(quantity__gt=0), name="stock_movement_moves_something"),
            models.CheckConstraint(
                condition=Q(reserved_after__gte=0, reserved_after__lte=F("on_hand_after")),
                name="stock_movement_leaves_reserved_within_on_hand",
            ),
            models.CheckConstraint(condition=_CHANGES, name="stock_movement_changes_what_its_operation_says"),
        ]
        indexes = [
            models.Index(fields=["merchant", "reference", "id"], name="stock_log_of_a_reference"),
            models.Index(fields=["product", "id"], name="stock_log_of_a_product"),
        ]
        triggers = [protect_append_only()]

    def __str__(self) -> str:
        return f"{self.operation} {self.quantity}"


class StockCheck(models.Model):
    """One day's proof that stock, log and holds agree. `differences` holds the first ones found."""

    id = models.BigAutoField(primary_key=True)
    day = models.DateField(unique=True)  # UTC
    began_at = models.DateTimeField()
    finished_at = models.DateTimeField()
    products = models.BigIntegerField()  # that have stock
    movements = models.BigIntegerField()  # added up
    found = models.IntegerField()
    differences = models.JSONField(default=list)  # [{"law", "product", "text"}]

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(found__gte=0), name="stock_check_counts_what_it_found")]

    def __str__(self) -> str:
        return f"Check of {self.day}"
