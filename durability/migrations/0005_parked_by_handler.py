"""Counts parked deliveries without reading the open ones. Built CONCURRENTLY, so in no transaction."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("durability", "0004_indexes_by_lane_and_age")]

    operations = [
        AddIndexConcurrently(
            "delivery", models.Index(fields=["handler"], name="delivery_parked", condition=Q(state="parked"))
        ),
    ]
