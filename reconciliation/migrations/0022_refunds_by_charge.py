"""What went back of a charge is looked up by it, among the provider's rows. Built CONCURRENTLY: nobody waits."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("reconciliation", "0021_discrepancies_by_charge")]

    operations = [
        AddIndexConcurrently(
            "providertransaction",
            models.Index(
                fields=["charge"], name="provider_refund_by_charge", condition=models.Q(reporting_category="refund")
            ),
        )
    ]
