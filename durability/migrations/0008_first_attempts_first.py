"""Claiming takes first attempts before retries. Built CONCURRENTLY, so in no transaction; the old one goes last."""

from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models
from django.db.models import ExpressionWrapper, F, Q


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("durability", "0007_delivery_due_since")]

    operations = [
        AddIndexConcurrently(
            "delivery",
            models.Index(
                F("outside"),
                ExpressionWrapper(Q(attempts__gt=0), output_field=models.BooleanField()),
                F("id"),
                name="delivery_open_in_turn",
                condition=Q(state__in=["pending", "running"]),
            ),
        ),
        RemoveIndexConcurrently("delivery", "delivery_open_by_lane"),
    ]
