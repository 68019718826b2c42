"""One action on many discrepancies."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from foundation.ids import Numbered, uuid7
from foundation.transition import transition_guard
from reconciliation.models.choices import choices
from reconciliation.models.discrepancies import Discrepancy, Incident
from reconciliation.states import (
    BULK_EDGES,
    BulkItemState,
    BulkState,
)


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
        choices=choices(BulkState.PLANNED, BulkState.RUNNING, BulkState.STOPPED, BulkState.DONE),
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
        choices=choices(
            BulkItemState.PLANNED,
            BulkItemState.REFUSED,
            BulkItemState.DONE,
            BulkItemState.ASKED,
            BulkItemState.FAILED,
        ),
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
