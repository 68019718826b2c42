"""Our bank's statements: new tables, and columns of statement files with constant defaults. The constraints of those files are made
anew while the table is locked: it holds one row a file. No large table is rewritten or locked for longer than a moment.
"""


import django.db.models.deletion
import django.db.models.functions.datetime
import foundation.ids
import pgtrigger.compiler
import pgtrigger.migrations
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('reconciliation', '0004_statements_and_kinds'),
    ]

    operations = [
        migrations.CreateModel(
            name='BankLine',
            fields=[
                ('id', models.UUIDField(default=foundation.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('account', models.CharField(max_length=64)),
                ('key', models.CharField(max_length=255)),
                ('booked_on', models.DateField()),
                ('valued_on', models.DateField(null=True)),
                ('amount_minor', models.BigIntegerField()),
                ('currency', models.CharField(max_length=3)),
                ('reference', models.CharField(blank=True, max_length=255)),
                ('references', models.TextField(blank=True)),
                ('counterparty', models.CharField(blank=True, max_length=255)),
                ('text', models.TextField(blank=True)),
                ('of_provider', models.BooleanField()),
                ('sha256', models.BinaryField(max_length=32)),
                ('line', models.PositiveIntegerField()),
            ],
            bases=(foundation.ids.Numbered, models.Model),
        ),
        migrations.CreateModel(
            name='BankMatch',
            fields=[
                ('id', models.UUIDField(default=foundation.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('payout_id', models.UUIDField()),
                ('leg', models.CharField(choices=[('arrival', 'Arrival'), ('return', 'Return')], max_length=8)),
                ('how', models.CharField(choices=[('trace_id', 'Trace id'), ('amount_and_date', 'Amount and date'), ('person', 'Person')], max_length=16)),
                ('why', models.TextField()),
                ('by', models.CharField(max_length=150)),
                ('made_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('ended_at', models.DateTimeField(null=True)),
                ('ended_by', models.CharField(blank=True, max_length=150)),
                ('ended_why', models.TextField(blank=True)),
            ],
            options={
                'verbose_name_plural': 'bank matches',
            },
        ),
        migrations.CreateModel(
            name='BankStatement',
            fields=[
                ('id', models.UUIDField(default=foundation.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('account', models.CharField(max_length=64)),
                ('currency', models.CharField(max_length=3)),
                ('number', models.CharField(blank=True, max_length=64)),
                ('first_day', models.DateField()),
                ('last_day', models.DateField()),
                ('opening_minor', models.BigIntegerField(null=True)),
                ('closing_minor', models.BigIntegerField(null=True)),
                ('lines', models.PositiveIntegerField()),
            ],
        ),
        migrations.RemoveConstraint(
            model_name='statementfile',
            name='statement_file_once',
        ),
        migrations.AddField(
            model_name='statementfile',
            name='problem_count',
            field=models.PositiveIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name='statementfile',
            name='problems',
            field=models.JSONField(db_default=[], default=list),
        ),
        migrations.AddField(
            model_name='statementfile',
            name='refused',
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddField(
            model_name='statementfile',
            name='whose',
            field=models.CharField(choices=[('provider', 'Provider'), ('bank', 'Bank')], db_default='provider', default='provider', max_length=8),
        ),
        migrations.AlterField(
            model_name='discrepancy',
            name='kind',
            field=models.CharField(choices=[('missing_in_stripe', 'Missing in Stripe'), ('missing_in_our_system', 'Missing in our system'), ('amount_mismatch', 'Amounts differ'), ('status_mismatch', 'Statuses differ'), ('missing_in_stripe_refund', 'Refund missing in Stripe'), ('missing_in_our_system_refund', 'Refund missing in our system'), ('amount_mismatch_refund', 'Refund amounts differ'), ('status_mismatch_refund', 'Refund statuses differ'), ('currency_mismatch', 'Currencies differ'), ('duplicate_charge', 'Charged twice'), ('foreign_instance', "Another installation's"), ('unknown_type', 'Unknown type'), ('fee_variance', 'Fees differ'), ('dispute_unexpected', 'Dispute not expected'), ('dispute_missing', 'Dispute missing in Stripe'), ('payout_difference', 'Payout differs'), ('statement_residual', 'Statement does not close'), ('refund_failed_late', 'Refund failed late'), ('over_refunded', 'Refunded too much'), ('payout_not_at_bank', 'Payout not at the bank'), ('bank_line_unexplained', 'Bank line without a payout'), ('bank_amount_mismatch', 'Bank got another amount')], max_length=40),
        ),
        migrations.AlterField(
            model_name='discrepancy',
            name='object_kind',
            field=models.CharField(choices=[('charge', 'Charge'), ('refund', 'Refund'), ('dispute', 'Dispute'), ('payout', 'Payout'), ('adjustment', 'Adjustment'), ('other', 'Other'), ('statement', 'Statement'), ('bank', 'Bank')], max_length=16),
        ),
        migrations.AlterField(
            model_name='statementfile',
            name='layout',
            field=models.CharField(blank=True, choices=[('stripe', 'Stripe'), ('everycent', 'Everycent'), ('camt053', 'Camt053'), ('mt940', 'Mt940'), ('bank_csv', 'Bank csv')], max_length=16),
        ),
        migrations.AddConstraint(
            model_name='statementfile',
            constraint=models.UniqueConstraint(condition=models.Q(('refused', False)), fields=('sha256',), name='statement_file_once'),
        ),
        migrations.AddConstraint(
            model_name='statementfile',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('problem_count', 0), ('refused', False)), models.Q(('added', 0), ('problem_count__gt', 0), ('refused', True)), _connector='OR'), name='statement_file_taken_in_or_refused'),
        ),
        migrations.AddField(
            model_name='bankline',
            name='file',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='reconciliation.statementfile'),
        ),
        migrations.AddField(
            model_name='bankmatch',
            name='line',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='matches', to='reconciliation.bankline'),
        ),
        migrations.AddField(
            model_name='bankstatement',
            name='file',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='statements', to='reconciliation.statementfile'),
        ),
        migrations.AddIndex(
            model_name='bankline',
            index=models.Index(fields=['booked_on', 'id'], name='bank_line_by_day'),
        ),
        migrations.AddIndex(
            model_name='bankline',
            index=models.Index(condition=models.Q(('of_provider', True)), fields=['booked_on', 'id'], name='bank_line_of_provider'),
        ),
        migrations.AddIndex(
            model_name='bankline',
            index=models.Index(condition=models.Q(('reference', ''), _negated=True), fields=['reference'], name='bank_line_by_reference'),
        ),
        migrations.AddConstraint(
            model_name='bankline',
            constraint=models.UniqueConstraint(fields=('account', 'key'), name='bank_line_once'),
        ),
        migrations.AddConstraint(
            model_name='bankline',
            constraint=models.CheckConstraint(condition=models.Q(('key', ''), _negated=True), name='bank_line_has_a_key'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='bankline',
            trigger=pgtrigger.compiler.Trigger(name='append_only', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;", hash='ec1d10312baff423c875a2570942802b696ce950', operation='UPDATE OR DELETE', pgid='pgtrigger_append_only_bf2d7', table='reconciliation_bankline', when='BEFORE')),
        ),
        migrations.AddConstraint(
            model_name='bankmatch',
            constraint=models.UniqueConstraint(condition=models.Q(('ended_at', None)), fields=('line',), name='bank_line_is_one_payout'),
        ),
        migrations.AddConstraint(
            model_name='bankmatch',
            constraint=models.UniqueConstraint(condition=models.Q(('ended_at', None)), fields=('payout_id', 'leg'), name='payout_leg_is_one_bank_line'),
        ),
        migrations.AddConstraint(
            model_name='bankmatch',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('ended_at', None), ('ended_by', ''), ('ended_why', '')), models.Q(('ended_at__isnull', False), models.Q(('ended_by', ''), _negated=True), models.Q(('ended_why', ''), _negated=True)), _connector='OR'), name='bank_match_ended_says_why'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='bankmatch',
            trigger=pgtrigger.compiler.Trigger(name='never_deleted', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot delete rows from % table', TG_TABLE_NAME;", hash='c6fb4d190cabed19ecdf174fe24bd8db74bd29e8', operation='DELETE', pgid='pgtrigger_never_deleted_4ad7f', table='reconciliation_bankmatch', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='bankmatch',
            trigger=pgtrigger.compiler.Trigger(name='ended_once', sql=pgtrigger.compiler.UpsertTriggerSql(condition='WHEN (OLD."ended_at" IS NOT NULL)', func="RAISE EXCEPTION 'pgtrigger: Cannot update rows from % table', TG_TABLE_NAME;", hash='e8d868986489a331ddbaaa3dc2af85aa38042695', operation='UPDATE', pgid='pgtrigger_ended_once_039b6', table='reconciliation_bankmatch', when='BEFORE')),
        ),
        migrations.AddIndex(
            model_name='bankstatement',
            index=models.Index(fields=['currency', 'last_day'], name='bank_statement_by_reach'),
        ),
        migrations.AddConstraint(
            model_name='bankstatement',
            constraint=models.CheckConstraint(condition=models.Q(('last_day__gte', models.F('first_day'))), name='bank_statement_has_a_period'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='bankstatement',
            trigger=pgtrigger.compiler.Trigger(name='append_only', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;", hash='1b4304f6ffd4986e38affddf47ce69403866e861', operation='UPDATE OR DELETE', pgid='pgtrigger_append_only_c90bf', table='reconciliation_bankstatement', when='BEFORE')),
        ),
    ]
