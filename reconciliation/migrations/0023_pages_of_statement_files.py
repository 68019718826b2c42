"""Statement files are kept in pages of their rows. Rows that were taken in before keep their vouchers, one each.

The column has no default and no constraint: nothing is rewritten, nothing is scanned.
"""

import django.db.models.functions.datetime
import pgtrigger.compiler
import pgtrigger.migrations
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('reconciliation', '0022_refunds_by_charge'),
    ]

    operations = [
        migrations.AddField(
            model_name='providertransaction',
            name='page_row',
            field=models.IntegerField(null=True),
        ),
        migrations.CreateModel(
            name='RawPage',
            fields=[
                ('sha256', models.BinaryField(max_length=32, primary_key=True, serialize=False)),
                ('rows', models.PositiveIntegerField()),
                ('body', models.BinaryField()),
                ('first_seen_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('rows__gt', 0)), name='raw_page_has_rows')],
            },
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='rawpage',
            trigger=pgtrigger.compiler.Trigger(name='append_only', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;", hash='57da4fd3a6e9b627cf5d97a62bb39ce74324a673', operation='UPDATE OR DELETE', pgid='pgtrigger_append_only_79e2b', table='reconciliation_rawpage', when='BEFORE')),
        ),
        # What is compressed already is not compressed again.
        migrations.RunSQL(
            "ALTER TABLE reconciliation_rawpage ALTER body SET STORAGE EXTERNAL",
            migrations.RunSQL.noop,
        ),
    ]
