"""Indexes of big tables, built while the shop is open: CONCURRENTLY, so in no transaction; the old ones go last."""

from django.contrib.postgres.indexes import BrinIndex
from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("durability", "0003_lanes_and_subscriptions")]

    operations = [
        AddIndexConcurrently(
            "delivery",
            models.Index(
                fields=["outside", "id"], name="delivery_open_by_lane", condition=Q(state__in=["pending", "running"])
            ),
        ),
        AddIndexConcurrently(
            "delivery",
            models.Index(
                fields=["handler", "key", "message"],
                name="delivery_first_of_key",
                condition=Q(state__in=["pending", "running", "parked"]),
            ),
        ),
        AddIndexConcurrently(
            "sagarun",
            models.Index(
                fields=["outside", "available_at"],
                name="saga_due_by_lane",
                condition=Q(state__in=["running", "compensating"]),
            ),
        ),
        AddIndexConcurrently("message", BrinIndex(fields=["created_at"], name="message_age", autosummarize=True)),
        AddIndexConcurrently("sagarun", BrinIndex(fields=["created_at"], name="saga_age", autosummarize=True)),
        RemoveIndexConcurrently("delivery", "delivery_open"),
        RemoveIndexConcurrently("delivery", "delivery_head_of_key"),
        RemoveIndexConcurrently("sagarun", "saga_unfinished"),
    ]
