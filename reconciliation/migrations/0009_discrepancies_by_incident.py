"""Built CONCURRENTLY, so in no transaction: nobody who writes a discrepancy waits for it."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("reconciliation", "0008_incidents_and_bulk_actions")]

    operations = [
        AddIndexConcurrently(
            "discrepancy",
            models.Index(
                fields=["incident", "id"], name="discrepancy_by_incident", condition=Q(incident__isnull=False)
            ),
        ),
    ]
