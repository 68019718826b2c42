"""What a run found beside a payment is looked up by its intent and its charge. Built CONCURRENTLY: nobody waits."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("reconciliation", "0020_match_one_of_ours")]

    operations = [
        AddIndexConcurrently(
            "discrepancy", models.Index(fields=[name], name=f"discrepancy_by_{name}", condition=~models.Q(**{name: ""}))
        )
        for name in ("intent", "charge")
    ]
