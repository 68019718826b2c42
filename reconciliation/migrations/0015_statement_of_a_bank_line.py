"""Bank lines know the statement in which they stand; null for those that were read before, so PostgreSQL checks no row of theirs.

CONCURRENTLY, so in no transaction: lines are taken in meanwhile.
"""

import django.db.models.deletion
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("reconciliation", "0014_one_index_by_id")]

    operations = [
        migrations.AddField(
            model_name="bankline",
            name="statement",
            field=models.ForeignKey(
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="reconciliation.bankstatement",
            ),
        ),
        AddIndexConcurrently("bankline", models.Index(fields=["statement"], name="bank_line_by_statement")),
        AddIndexConcurrently(
            "bankstatement",
            models.Index(fields=["account", "currency", "last_day"], name="bank_statement_by_account"),
        ),
    ]
