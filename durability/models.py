"""The rows that survive a crash."""

from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import ExpressionWrapper, F, Q
from django.db.models.functions import Now

from foundation.ids import uuid7


class Message(models.Model):
    """An event, written in the transaction of the change that it tells of."""

    class State(models.TextChoices):
        PENDING = "pending"  # not yet in the stream for consumers outside
        PUBLISHED = "published"

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=100)
    key = models.CharField(max_length=255)
    payload = models.JSONField()
    request_id = models.CharField(max_length=128, blank=True)
    state = models.CharField(max_length=16, choices=State.choices, default=State.PENDING)
    published_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [
            models.Index(fields=["id"], name="message_pending", condition=Q(state="pending")),
            models.Index(fields=["key", "id"], name="message_by_key"),
            # Written in the order of time, so this finds the old ones at next to no cost.
            BrinIndex(fields=["created_at"], name="message_age", autosummarize=True),
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.key}"


class Delivery(models.Model):
    """One handler's copy of a message: its receipt when done, its reason when parked."""

    class State(models.TextChoices):
        PENDING = "pending"
        RUNNING = "running"
        DONE = "done"
        PARKED = "parked"  # failed too often: waits for an operator, and holds up its own key alone
        SKIPPED = "skipped"

    id = models.BigAutoField(primary_key=True)
    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="deliveries")
    handler = models.CharField(max_length=100)
    key = models.CharField(max_length=255)
    outside = models.BooleanField(db_default=False)  # the handler leaves the process: the lane of its workers
    state = models.CharField(max_length=16, choices=State.choices, default=State.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    # Written then, or let go on by a person since: how long it has waited for a success.
    due_since = models.DateTimeField(db_default=Now())
    # Not before this moment; while running, the end of the lease.
    available_at = models.DateTimeField(db_default=Now())
    # Counts claims: what an older claim wants to commit is refused.
    lease_version = models.PositiveIntegerField(default=0)
    last_error = models.TextField(blank=True)
    done_at = models.DateTimeField(null=True)
    resolved_by = models.CharField(max_length=150, blank=True)
    resolved_reason = models.TextField(blank=True)

    class Meta:
        verbose_name_plural = "deliveries"
        permissions = [("decide_delivery", "Can retry and skip parked deliveries")]
        constraints = [
            models.UniqueConstraint(fields=["message", "handler"], name="delivery_once_per_handler_and_message"),
            models.CheckConstraint(
                condition=~Q(state="skipped") | ~Q(resolved_reason=""), name="delivery_skipped_with_a_reason"
            ),
        ]
        indexes = [
            # In the order of claiming.
            models.Index(
                F("outside"),
                ExpressionWrapper(Q(attempts__gt=0), output_field=models.BooleanField()),
                F("id"),
                name="delivery_open_in_turn",
                condition=Q(state__in=["pending", "running"]),
            ),
            # Finds what an earlier message of the same key still holds up.
            models.Index(
                fields=["handler", "key", "message"],
                name="delivery_first_of_key",
                condition=Q(state__in=["pending", "running", "parked"]),
            ),
            # Few, and counted by every look at /metrics.
            models.Index(fields=["handler"], name="delivery_parked", condition=Q(state="parked")),
            models.Index(fields=["id"], name="delivery_skipped", condition=Q(state="skipped")),
        ]

    def __str__(self) -> str:
        return f"{self.handler} {self.key}"


class SagaRun(models.Model):
    """One run of a recipe. Its progress commits together with each step's effect."""

    class State(models.TextChoices):
        RUNNING = "running"
        COMPLETED = "completed"
        COMPENSATING = "compensating"
        COMPENSATED = "compensated"
        COMPENSATION_FAILED = "compensation_failed"  # alarms: a person must look

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    recipe = models.CharField(max_length=100)
    version = models.PositiveIntegerField()
    key = models.CharField(max_length=255)
    subject = models.CharField(max_length=64)  # the object whose page tells of this run
    payload = models.JSONField(default=dict)
    request_id = models.CharField(max_length=128, blank=True)
    state = models.CharField(max_length=24, choices=State.choices, default=State.RUNNING)
    current_step = models.PositiveIntegerField(default=0)
    outside = models.BooleanField(db_default=False)  # it stands at a call: the lane of its workers
    attempts = models.PositiveIntegerField(default=0)  # of the current step, counted before it runs
    deaths = models.PositiveIntegerField(db_default=0)  # claims since the last commit: above 1, processes died of it
    available_at = models.DateTimeField(db_default=Now())  # not before; while a worker holds it, the end of its lease
    lease_version = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True)
    created_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)

    class Meta:
        permissions = [
            ("retry_sagarun", "Can retry sagas"),
            ("decide_sagarun", "Can skip steps of sagas and turn sagas back"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["recipe", "key"], name="saga_runs_once_per_key"),
        ]
        indexes = [
            models.Index(
                fields=["outside", "available_at"],
                name="saga_due_by_lane",
                condition=Q(state__in=["running", "compensating"]),
            ),
            BrinIndex(fields=["created_at"], name="saga_age", autosummarize=True),
            models.Index(fields=["subject"], name="saga_by_subject"),
            # Few, and looked for by every look at the dashboard.
            models.Index(fields=["id"], name="saga_failed", condition=Q(state="compensation_failed")),
        ]

    def __str__(self) -> str:
        return f"{self.recipe} {self.key}"


class SagaStep(models.Model):
    """What became of one step of a run."""

    class State(models.TextChoices):
        CALLING = "calling"  # the intent is committed; the call may have been sent
        DONE = "done"
        FAILED = "failed"
        UNDONE = "undone"
        SKIPPED = "skipped"

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(SagaRun, on_delete=models.CASCADE, related_name="steps")
    index = models.PositiveIntegerField()
    name = models.CharField(max_length=100)
    state = models.CharField(max_length=16, choices=State.choices)
    attempts = models.PositiveIntegerField(default=0)
    note = models.TextField(blank=True)  # the error, or the reason given by the operator who skipped it
    by = models.CharField(max_length=150, blank=True)
    started_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["index"]
        constraints = [
            models.UniqueConstraint(fields=["run", "index"], name="saga_step_once_per_run"),
        ]

    def __str__(self) -> str:
        return f"{self.index + 1}. {self.name}"


class IdempotencyKey(models.Model):
    """A caller's key: the request that it stands for, what that made, and the answer once it is final."""

    id = models.BigAutoField(primary_key=True)
    caller = models.UUIDField()  # the merchant, not the API key: rotating keys doubles nothing
    key = models.CharField(max_length=255)
    method = models.CharField(max_length=8)
    path = models.CharField(max_length=300)
    body_hash = models.BinaryField(max_length=32)
    subject = models.CharField(max_length=64, blank=True)  # the object to go on with where no answer is stored yet
    status = models.PositiveSmallIntegerField(null=True)
    body = models.JSONField(null=True)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(F("caller"), F("key"), name="idempotency_key_once_per_caller"),
            models.CheckConstraint(
                condition=Q(status__isnull=True, body__isnull=True) | Q(status__isnull=False, body__isnull=False),
                name="idempotency_answer_is_whole",
            ),
        ]
        indexes = [models.Index(fields=["created_at"], name="idempotency_key_age")]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Subscription(models.Model):
    """From where a handler listens, and how far it was made sure that every message has its delivery."""

    handler = models.CharField(primary_key=True, max_length=100)
    since_message = models.BigIntegerField()  # listens to messages after this id
    checked_to = models.BigIntegerField()
    created_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.handler


class StreamWriter(models.Model):
    """Who may write to the stream: one worker at a time, under a lease."""

    stream = models.CharField(primary_key=True, max_length=100)
    # Of the latest claim, always rising, in milliseconds: the first half of the ids of the entries written under it.
    stamp = models.BigIntegerField()
    leased_until = models.DateTimeField()

    def __str__(self) -> str:
        return self.stream


class Heartbeat(models.Model):
    """When a process of ours was last seen: `beat`, and the workers of each queue, `worker.<queue>`."""

    name = models.CharField(max_length=32, primary_key=True)
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name
