"""New tables only: nothing that is there is locked. It needs the views of payments by their branches."""
import django.db.models.expressions
import django.db.models.functions.datetime
import foundation.ids
import pgtrigger.compiler
import pgtrigger.migrations
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('payments', '0021_views_for_large_days'),
        ('reconciliation', '0009_discrepancies_by_incident'),
    ]

    operations = [
        migrations.CreateModel(
            name='Match',
            fields=[
                ('object', models.CharField(max_length=280, primary_key=True, serialize=False)),
                ('ours_id', models.UUIDField()),
                ('ours_source', models.CharField(blank=True, max_length=255)),
                ('rule', models.CharField(choices=[('id', 'Id'), ('intent', 'Intent'), ('person', 'Person'), ('metadata', 'Metadata'), ('amount_and_date', 'Amount and date')], max_length=16)),
                ('currency', models.CharField(max_length=3)),
                ('theirs_minor', models.BigIntegerField()),
                ('difference_minor', models.BigIntegerField(default=0)),
                ('tolerance_minor', models.BigIntegerField(null=True)),
                ('theirs_on', models.DateField()),
                ('ours_on', models.DateField()),
                ('run_id', models.UUIDField(null=True)),
                ('matched_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'verbose_name_plural': 'matches',
            },
        ),
        migrations.CreateModel(
            name='Tolerance',
            fields=[
                ('id', models.UUIDField(default=foundation.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('merchant_id', models.UUIDField()),
                ('currency', models.CharField(max_length=3)),
                ('amount_minor', models.BigIntegerField()),
                ('by', models.CharField(max_length=150)),
                ('note', models.TextField()),
                ('since', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('ended_at', models.DateTimeField(null=True)),
                ('ended_by', models.CharField(blank=True, max_length=150)),
                ('ended_why', models.TextField(blank=True)),
            ],
            options={
                'permissions': [('set_tolerance', 'Can set and end tolerances of matching')],
            },
        ),
        migrations.CreateModel(
            name='Link',
            fields=[
                ('id', models.UUIDField(default=foundation.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('object_kind', models.CharField(choices=[('charge', 'Charge'), ('refund', 'Refund')], max_length=16)),
                ('source', models.CharField(max_length=255)),
                ('ours_id', models.UUIDField()),
                ('ours_source', models.CharField(max_length=255)),
                ('by', models.CharField(max_length=150)),
                ('why', models.TextField()),
                ('made_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('ended_at', models.DateTimeField(null=True)),
                ('ended_by', models.CharField(blank=True, max_length=150)),
            ],
            options={
                'constraints': [models.UniqueConstraint(condition=models.Q(('ended_at__isnull', True)), fields=('object_kind', 'source'), name='link_one_of_theirs'), models.UniqueConstraint(condition=models.Q(('ended_at__isnull', True)), fields=('object_kind', 'ours_source'), name='link_one_of_ours'), models.CheckConstraint(condition=models.Q(('why', ''), _negated=True), name='link_has_a_reason'), models.CheckConstraint(condition=models.Q(('source', models.F('ours_source')), _negated=True), name='link_joins_two_ids')],
            },
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='link',
            trigger=pgtrigger.compiler.Trigger(name='never_deleted', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot delete rows from % table', TG_TABLE_NAME;", hash='dc337620b670288eb6a53c0c18a0f3d8affc4eb4', operation='DELETE', pgid='pgtrigger_never_deleted_dd69f', table='reconciliation_link', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='link',
            trigger=pgtrigger.compiler.Trigger(name='only_ended', sql=pgtrigger.compiler.UpsertTriggerSql(condition='WHEN (OLD."id" IS DISTINCT FROM (NEW."id") OR OLD."object_kind" IS DISTINCT FROM (NEW."object_kind") OR OLD."source" IS DISTINCT FROM (NEW."source") OR OLD."ours_id" IS DISTINCT FROM (NEW."ours_id") OR OLD."ours_source" IS DISTINCT FROM (NEW."ours_source") OR OLD."by" IS DISTINCT FROM (NEW."by") OR OLD."why" IS DISTINCT FROM (NEW."why") OR OLD."made_at" IS DISTINCT FROM (NEW."made_at"))', func="RAISE EXCEPTION 'pgtrigger: Cannot update rows from % table', TG_TABLE_NAME;", hash='39c3a977884a7cce699992b954264566dc393264', operation='UPDATE', pgid='pgtrigger_only_ended_d3ea4', table='reconciliation_link', when='BEFORE')),
        ),
        migrations.AddIndex(
            model_name='match',
            index=models.Index(condition=models.Q(('rule', 'id'), _negated=True), fields=['object'], name='match_not_by_id'),
        ),
        migrations.AddIndex(
            model_name='match',
            index=models.Index(condition=models.Q(('rule__in', ('metadata', 'amount_and_date'))), fields=['theirs_on'], name='match_fuzzy_by_day'),
        ),
        migrations.AddIndex(
            model_name='match',
            index=models.Index(condition=models.Q(('tolerance_minor__isnull', False)), fields=['currency', 'theirs_on'], include=('difference_minor',), name='match_within_tolerance'),
        ),
        migrations.AddConstraint(
            model_name='match',
            constraint=models.CheckConstraint(condition=models.Q(('rule__in', ['id', 'intent', 'person', 'metadata', 'amount_and_date'])), name='match_says_why'),
        ),
        migrations.AddConstraint(
            model_name='match',
            constraint=models.CheckConstraint(condition=models.Q(('difference_minor', 0), models.Q(('difference_minor__gte', django.db.models.expressions.CombinedExpression(models.Value(0), '-', models.F('tolerance_minor'))), ('difference_minor__lte', models.F('tolerance_minor')), ('tolerance_minor__isnull', False)), _connector='OR'), name='match_difference_within_its_tolerance'),
        ),
        migrations.AddConstraint(
            model_name='tolerance',
            constraint=models.UniqueConstraint(condition=models.Q(('ended_at__isnull', True)), fields=('merchant_id', 'currency'), name='tolerance_one_per_merchant_and_currency'),
        ),
        migrations.AddConstraint(
            model_name='tolerance',
            constraint=models.CheckConstraint(condition=models.Q(('amount_minor__gte', 1), ('amount_minor__lte', 1000)), name='tolerance_between_1_and_1000_minor_units'),
        ),
        migrations.AddConstraint(
            model_name='tolerance',
            constraint=models.CheckConstraint(condition=models.Q(('note', ''), _negated=True), name='tolerance_has_a_note'),
        ),
        migrations.AddConstraint(
            model_name='tolerance',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('ended_at__isnull', True), ('ended_by', ''), ('ended_why', '')), models.Q(('ended_at__isnull', False), models.Q(('ended_by', ''), _negated=True), models.Q(('ended_why', ''), _negated=True)), _connector='OR'), name='tolerance_end_says_who_and_why'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='tolerance',
            trigger=pgtrigger.compiler.Trigger(name='never_deleted', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot delete rows from % table', TG_TABLE_NAME;", hash='6baddbe61763f470ffc187972aca6b9e74f17c90', operation='DELETE', pgid='pgtrigger_never_deleted_e00e9', table='reconciliation_tolerance', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='tolerance',
            trigger=pgtrigger.compiler.Trigger(name='only_ended', sql=pgtrigger.compiler.UpsertTriggerSql(condition='WHEN (OLD."id" IS DISTINCT FROM (NEW."id") OR OLD."merchant_id" IS DISTINCT FROM (NEW."merchant_id") OR OLD."currency" IS DISTINCT FROM (NEW."currency") OR OLD."amount_minor" IS DISTINCT FROM (NEW."amount_minor") OR OLD."by" IS DISTINCT FROM (NEW."by") OR OLD."note" IS DISTINCT FROM (NEW."note") OR OLD."since" IS DISTINCT FROM (NEW."since"))', func="RAISE EXCEPTION 'pgtrigger: Cannot update rows from % table', TG_TABLE_NAME;", hash='7d5f5545c4269f318608067c96a3a1129617de76', operation='UPDATE', pgid='pgtrigger_only_ended_9941b', table='reconciliation_tolerance', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='tolerance',
            trigger=pgtrigger.compiler.Trigger(name='ended_once', sql=pgtrigger.compiler.UpsertTriggerSql(condition='WHEN (OLD."ended_at" IS NOT NULL)', func="RAISE EXCEPTION 'pgtrigger: Cannot update rows from % table', TG_TABLE_NAME;", hash='e924724f5bdb4b03504aaec008ff392c009e0b3b', operation='UPDATE', pgid='pgtrigger_ended_once_dc6c9', table='reconciliation_tolerance', when='BEFORE')),
        ),
    ]
