from django.contrib.postgres.indexes import BrinIndex
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations


class Migration(migrations.Migration):
    """When a row of the provider's was read last, for the audit chain. Built beside those who read and write."""

    atomic = False

    dependencies = [("reconciliation", "0006_closing")]

    operations = [
        AddIndexConcurrently(
            "providertransaction",
            BrinIndex(fields=["seen_at", "withdrawn_at"], name="provider_txn_by_change", autosummarize=True),
        )
    ]
