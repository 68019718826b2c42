"""New tables, and an empty column of discrepancies that names one of them: no table is rewritten, and the check of the new
foreign key reads one that holds nothing but nulls there. Its index follows in a migration of its own."""
import django.db.models.deletion
import django.db.models.functions.datetime
import foundation.ids
import pgtrigger.compiler
import pgtrigger.migrations
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('reconciliation', '0007_provider_rows_by_change'),
    ]

    operations = [
        migrations.CreateModel(
            name='BulkAction',
            fields=[
                ('id', models.UUIDField(default=foundation.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('action', models.CharField(max_length=32)),
                ('inputs', models.JSONField(default=dict)),
                ('scope', models.CharField(max_length=300)),
                ('state', models.CharField(choices=[('planned', 'Planned'), ('running', 'Running'), ('stopped', 'Stopped'), ('done', 'Done')], default='planned', max_length=8)),
                ('planned_by', models.CharField(max_length=150)),
                ('planned_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('note', models.TextField(blank=True)),
                ('by', models.CharField(blank=True, max_length=150)),
                ('confirmed_at', models.DateTimeField(null=True)),
                ('finished_at', models.DateTimeField(null=True)),
            ],
            bases=(foundation.ids.Numbered, models.Model),
        ),
        migrations.CreateModel(
            name='BulkItem',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('state', models.CharField(choices=[('planned', 'Planned'), ('refused', 'Refused'), ('done', 'Done'), ('failed', 'Failed')], default='planned', max_length=8)),
                ('currency', models.CharField(blank=True, max_length=3)),
                ('value_minor', models.BigIntegerField(default=0)),
                ('result', models.TextField(blank=True)),
                ('attempts', models.PositiveIntegerField(default=0)),
                ('available_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('finished_at', models.DateTimeField(null=True)),
                ('bulk', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='rows', to='reconciliation.bulkaction')),
                ('discrepancy', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='reconciliation.discrepancy')),
            ],
        ),
        migrations.CreateModel(
            name='Incident',
            fields=[
                ('id', models.UUIDField(default=foundation.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('key', models.CharField(max_length=500)),
                ('cause', models.CharField(choices=[('webhook_gap', 'Webhook gap'), ('same_kind', 'Same kind')], max_length=16)),
                ('kind', models.CharField(blank=True, max_length=40)),
                ('endpoint', models.CharField(blank=True, max_length=32)),
                ('mark', models.CharField(blank=True, max_length=500)),
                ('gap_since', models.DateTimeField(null=True)),
                ('gap_until', models.DateTimeField(null=True)),
                ('first_at', models.DateTimeField()),
                ('last_at', models.DateTimeField()),
                ('items', models.PositiveIntegerField(default=0)),
                ('open_items', models.PositiveIntegerField(default=0)),
                ('value', models.JSONField(default=dict)),
                ('open_value', models.JSONField(default=dict)),
                ('opened_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('closed_at', models.DateTimeField(null=True)),
            ],
            options={
                'indexes': [models.Index(fields=['kind', 'endpoint', 'mark', 'first_at'], name='incident_by_kind'), models.Index(condition=models.Q(('closed_at__isnull', True)), fields=['id'], name='incident_open')],
                'constraints': [models.UniqueConstraint(fields=('key',), name='incident_once_per_key'), models.CheckConstraint(condition=models.Q(models.Q(('cause', 'webhook_gap'), ('gap_since__isnull', False)), models.Q(('cause', 'same_kind'), ('gap_since__isnull', True), ('gap_until__isnull', True), models.Q(('kind', ''), _negated=True)), _connector='OR'), name='incident_says_what_its_items_share'), models.CheckConstraint(condition=models.Q(('last_at__gte', models.F('first_at'))), name='incident_ends_after_it_begins'), models.CheckConstraint(condition=models.Q(('open_items__lte', models.F('items'))), name='incident_counts_its_items'), models.CheckConstraint(condition=models.Q(models.Q(('closed_at__isnull', False), ('open_items', 0)), models.Q(('closed_at__isnull', True), ('open_items__gt', 0)), _connector='OR'), name='incident_is_open_while_an_item_is')],
            },
            bases=(foundation.ids.Numbered, models.Model),
        ),
        migrations.AddField(
            model_name='bulkaction',
            name='incident',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='bulk_actions', to='reconciliation.incident'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='incident',
            trigger=pgtrigger.compiler.Trigger(name='never_deleted', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot delete rows from % table', TG_TABLE_NAME;", hash='520a408170cd27087f9afbf7a384b3eefbb5ff4e', operation='DELETE', pgid='pgtrigger_never_deleted_6eede', table='reconciliation_incident', when='BEFORE')),
        ),
        migrations.AddField(
            model_name='discrepancy',
            name='incident',
            field=models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='discrepancies', to='reconciliation.incident'),
        ),
        migrations.AddIndex(
            model_name='bulkitem',
            index=models.Index(condition=models.Q(('state', 'planned')), fields=['bulk', 'id'], name='bulk_item_to_do'),
        ),
        migrations.AddConstraint(
            model_name='bulkitem',
            constraint=models.UniqueConstraint(fields=('bulk', 'discrepancy'), name='bulk_item_once_per_discrepancy'),
        ),
        migrations.AddConstraint(
            model_name='bulkitem',
            constraint=models.CheckConstraint(condition=models.Q(('state', 'planned'), models.Q(('result', ''), _negated=True), _connector='OR'), name='bulk_item_says_what_came_of_it'),
        ),
        migrations.AddIndex(
            model_name='bulkaction',
            index=models.Index(condition=models.Q(('state', 'running')), fields=['id'], name='bulk_action_running'),
        ),
        migrations.AddIndex(
            model_name='bulkaction',
            index=models.Index(condition=models.Q(('state', 'planned')), fields=['planned_at'], name='bulk_action_plans'),
        ),
        migrations.AddConstraint(
            model_name='bulkaction',
            constraint=models.CheckConstraint(condition=models.Q(('state', 'planned'), models.Q(models.Q(('note', ''), _negated=True), models.Q(('by', ''), _negated=True), ('confirmed_at__isnull', False)), _connector='OR'), name='bulk_action_is_confirmed_with_a_note'),
        ),
        migrations.AddConstraint(
            model_name='bulkaction',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('finished_at__isnull', False), ('state', 'done')), models.Q(models.Q(('state', 'done'), _negated=True), ('finished_at__isnull', True)), _connector='OR'), name='bulk_action_done_is_dated'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='bulkaction',
            trigger=pgtrigger.compiler.Trigger(name='state_follows_its_table', sql=pgtrigger.compiler.UpsertTriggerSql(declare='DECLARE _is_valid_transition BOOLEAN;', func='SELECT CONCAT(OLD."state", \':\', NEW."state") = ANY(\'{done:running,planned:running,running:done,running:stopped,stopped:running}\'::text[]) INTO _is_valid_transition; IF (_is_valid_transition IS FALSE AND OLD."state" IS DISTINCT FROM NEW."state") THEN RAISE EXCEPTION \'pgtrigger: Invalid transition of field "state" from "%" to "%" on table %\', OLD."state", NEW."state", TG_TABLE_NAME; ELSE RETURN NEW; END IF;', hash='4d575797750b6da21ed971ed076685667a89cc3a', operation='UPDATE', pgid='pgtrigger_state_follows_its_table_d250e', table='reconciliation_bulkaction', when='BEFORE')),
        ),
    ]
