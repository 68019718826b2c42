"""New tables, and a column of runs with a constant default: no table is rewritten or locked for longer than a moment."""
import django.db.models.expressions
import django.db.models.functions.datetime
import foundation.ids
import pgtrigger.compiler
import pgtrigger.migrations
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('reconciliation', '0003_over_refunded'),
    ]

    operations = [
        migrations.CreateModel(
            name='DayTotal',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('date', models.DateField()),
                ('currency', models.CharField(max_length=3)),
                ('reporting_category', models.CharField(max_length=64)),
                ('rows', models.PositiveIntegerField()),
                ('gross_minor', models.BigIntegerField()),
                ('fee_minor', models.BigIntegerField()),
                ('net_minor', models.BigIntegerField()),
            ],
        ),
        migrations.CreateModel(
            name='ProviderBalanceReading',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('taken_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('balances', models.JSONField()),
                ('through_at', models.DateTimeField(null=True)),
                ('edge', models.JSONField(default=list)),
                ('unsure', models.JSONField(default=list)),
            ],
        ),
        migrations.CreateModel(
            name='ProviderRead',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('since', models.DateTimeField()),
                ('until', models.DateTimeField()),
                ('newest', models.CharField(blank=True, max_length=255)),
                ('reached', models.CharField(blank=True, max_length=255)),
                ('rows', models.PositiveIntegerField(default=0)),
                ('resumed', models.PositiveIntegerField(default=0)),
                ('began_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('finished_at', models.DateTimeField(null=True)),
                ('statement', models.CharField(blank=True, max_length=64)),
            ],
        ),
        migrations.CreateModel(
            name='RawRow',
            fields=[
                ('sha256', models.BinaryField(max_length=32, primary_key=True, serialize=False)),
                ('body', models.TextField()),
                ('first_seen_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
        ),
        migrations.CreateModel(
            name='StatementFile',
            fields=[
                ('id', models.UUIDField(default=foundation.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('sha256', models.CharField(max_length=64)),
                ('name', models.CharField(max_length=255)),
                ('layout', models.CharField(choices=[('stripe', 'Stripe'), ('everycent', 'Everycent')], max_length=16)),
                ('rows', models.PositiveIntegerField()),
                ('added', models.PositiveIntegerField()),
                ('first_day', models.DateField(null=True)),
                ('last_day', models.DateField(null=True)),
                ('by', models.CharField(max_length=150)),
                ('imported_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'permissions': [('import_statement', 'Can import statement files')],
            },
        ),
        migrations.AddField(
            model_name='reconciliationrun',
            name='statement',
            field=models.JSONField(db_default={}, default=dict),
        ),
        migrations.AlterField(
            model_name='discrepancy',
            name='kind',
            field=models.CharField(choices=[('missing_in_stripe', 'Missing in Stripe'), ('missing_in_our_system', 'Missing in our system'), ('amount_mismatch', 'Amounts differ'), ('status_mismatch', 'Statuses differ'), ('missing_in_stripe_refund', 'Refund missing in Stripe'), ('missing_in_our_system_refund', 'Refund missing in our system'), ('amount_mismatch_refund', 'Refund amounts differ'), ('status_mismatch_refund', 'Refund statuses differ'), ('currency_mismatch', 'Currencies differ'), ('duplicate_charge', 'Charged twice'), ('foreign_instance', "Another installation's"), ('unknown_type', 'Unknown type'), ('fee_variance', 'Fees differ'), ('dispute_unexpected', 'Dispute not expected'), ('dispute_missing', 'Dispute missing in Stripe'), ('payout_difference', 'Payout differs'), ('statement_residual', 'Statement does not close'), ('refund_failed_late', 'Refund failed late'), ('over_refunded', 'Refunded too much')], max_length=40),
        ),
        migrations.AlterField(
            model_name='discrepancy',
            name='object_kind',
            field=models.CharField(choices=[('charge', 'Charge'), ('refund', 'Refund'), ('dispute', 'Dispute'), ('payout', 'Payout'), ('adjustment', 'Adjustment'), ('other', 'Other'), ('statement', 'Statement')], max_length=16),
        ),
        migrations.CreateModel(
            name='BooksStart',
            fields=[
                ('id', models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                ('starts_on', models.DateField()),
                ('balances', models.JSONField(default=dict)),
                ('by', models.CharField(max_length=150)),
                ('note', models.TextField()),
                ('made_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'verbose_name_plural': 'start of the books',
                'constraints': [models.CheckConstraint(condition=models.Q(('id', 1)), name='books_start_is_one_row'), models.CheckConstraint(condition=models.Q(('note', ''), _negated=True), name='books_start_has_a_note')],
            },
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='booksstart',
            trigger=pgtrigger.compiler.Trigger(name='append_only', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;", hash='2c915d7167aad2216b8d32ddaaafb7cde437bfa9', operation='UPDATE OR DELETE', pgid='pgtrigger_append_only_34512', table='reconciliation_booksstart', when='BEFORE')),
        ),
        migrations.AddConstraint(
            model_name='daytotal',
            constraint=models.UniqueConstraint(fields=('date', 'currency', 'reporting_category'), name='day_total_once_per_category'),
        ),
        migrations.AddConstraint(
            model_name='daytotal',
            constraint=models.CheckConstraint(condition=models.Q(('net_minor', django.db.models.expressions.CombinedExpression(models.F('gross_minor'), '-', models.F('fee_minor')))), name='day_total_net'),
        ),
        migrations.AddIndex(
            model_name='providerbalancereading',
            index=models.Index(fields=['through_at'], name='balance_reading_by_moment'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='providerbalancereading',
            trigger=pgtrigger.compiler.Trigger(name='append_only', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;", hash='e976fc68df4c21c795175b9f05b8da57baf194db', operation='UPDATE OR DELETE', pgid='pgtrigger_append_only_68c71', table='reconciliation_providerbalancereading', when='BEFORE')),
        ),
        migrations.AddConstraint(
            model_name='providerread',
            constraint=models.UniqueConstraint(condition=models.Q(('finished_at__isnull', True)), fields=('since', 'until'), name='provider_read_one_open_per_window'),
        ),
        migrations.AddConstraint(
            model_name='providerread',
            constraint=models.CheckConstraint(condition=models.Q(('until__gt', models.F('since'))), name='provider_read_window_has_a_length'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='rawrow',
            trigger=pgtrigger.compiler.Trigger(name='append_only', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;", hash='0dec5d5017e6fede6eedbff397fdca4b8933b783', operation='UPDATE OR DELETE', pgid='pgtrigger_append_only_33535', table='reconciliation_rawrow', when='BEFORE')),
        ),
        migrations.AddConstraint(
            model_name='statementfile',
            constraint=models.UniqueConstraint(fields=('sha256',), name='statement_file_once'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='statementfile',
            trigger=pgtrigger.compiler.Trigger(name='append_only', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;", hash='bd66901bd2ede4941fdd2339382230eb9e8104c3', operation='UPDATE OR DELETE', pgid='pgtrigger_append_only_792d6', table='reconciliation_statementfile', when='BEFORE')),
        ),
    ]
