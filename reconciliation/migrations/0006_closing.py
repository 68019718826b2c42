import django.db.models.deletion
import django.db.models.functions.datetime
import foundation.ids
import pgtrigger.compiler
import pgtrigger.migrations
from django.db import migrations, models


class Migration(migrations.Migration):
    """Periods, their closings and reopenings, the audit chain, and approval of what one person may not settle alone.

    New tables. Discrepancies and actions are as many as there were differences, beside the millions that agreed: each gets a
    column without a default that would rewrite the table, and discrepancies their own month, in one statement.
    """


    dependencies = [
        ("payments", "0019_books_sealed_through"),
        ('reconciliation', '0005_bank_statements'),
    ]

    operations = [
        migrations.CreateModel(
            name='AuditBlock',
            fields=[
                ('number', models.BigIntegerField(primary_key=True, serialize=False)),
                ('kind', models.CharField(max_length=16)),
                ('period', models.DateField()),
                ('rows', models.PositiveIntegerField()),
                ('root', models.BinaryField(max_length=32)),
                ('before', models.BinaryField(max_length=32)),
                ('header', models.TextField()),
                ('sha256', models.BinaryField(max_length=32)),
                ('made_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
        ),
        migrations.CreateModel(
            name='AuditRow',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('position', models.PositiveIntegerField()),
                ('object', models.CharField(max_length=300)),
                ('body', models.TextField()),
            ],
        ),
        migrations.CreateModel(
            name='Period',
            fields=[
                ('starts_on', models.DateField(primary_key=True, serialize=False)),
                ('state', models.CharField(choices=[('open', 'Open'), ('closed', 'Closed'), ('reopening', 'Reopening')], db_default='open', default='open', max_length=16)),
                ('closings', models.PositiveIntegerField(db_default=0, default=0)),
            ],
            options={
                'permissions': [('close_period', 'Can close a month of the books'), ('reopen_period', 'Can ask for a closed month to be reopened, and decide what somebody else asked for')],
            },
        ),
        migrations.CreateModel(
            name='PeriodClosing',
            fields=[
                ('id', models.UUIDField(default=foundation.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('number', models.PositiveIntegerField()),
                ('closed_by', models.CharField(max_length=150)),
                ('note', models.TextField()),
                ('closed_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('books_begin', models.DateField()),
                ('sealed_through', models.DateTimeField()),
                ('after', models.BigIntegerField()),
                ('head', models.BigIntegerField()),
                ('statements', models.JSONField()),
                ('items', models.JSONField()),
                ('trial_balance', models.JSONField()),
                ('differences', models.JSONField(null=True)),
            ],
        ),
        migrations.CreateModel(
            name='PeriodHistory',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('from_state', models.CharField(max_length=32)),
                ('to_state', models.CharField(max_length=32)),
                ('by', models.CharField(max_length=100)),
                ('why', models.TextField(blank=True)),
                ('at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'verbose_name_plural': 'period history',
            },
        ),
        migrations.CreateModel(
            name='PeriodReopening',
            fields=[
                ('id', models.UUIDField(default=foundation.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('asked_by', models.CharField(max_length=150)),
                ('why', models.TextField()),
                ('asked_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('decision', models.CharField(blank=True, choices=[('approved', 'Approved'), ('refused', 'Refused')], max_length=8)),
                ('decided_by', models.CharField(blank=True, max_length=150)),
                ('decided_why', models.TextField(blank=True)),
                ('decided_at', models.DateTimeField(null=True)),
            ],
        ),
        migrations.AlterModelOptions(
            name='discrepancy',
            options={'permissions': [('investigate_discrepancy', 'Can claim, re-query and ignore discrepancies'), ('repair_discrepancy', 'Can repair discrepancies: create, correct, take over, refund'), ('accept_discrepancy', 'Can accept a difference or mark it as fraud'), ('approve_discrepancy', 'Can approve and refuse what somebody else may not settle alone')], 'verbose_name_plural': 'discrepancies'},
        ),
        pgtrigger.migrations.RemoveTrigger(
            model_name='discrepancy',
            name='state_follows_its_table',
        ),
        pgtrigger.migrations.RemoveTrigger(
            model_name='discrepancyaction',
            name='completed_once',
        ),
        migrations.RemoveConstraint(
            model_name='discrepancyaction',
            name='discrepancy_action_once_per_key',
        ),
        migrations.AddField(
            model_name='discrepancy',
            name='period',
            field=models.DateField(null=True),
        ),
        migrations.RunSQL(
            "UPDATE reconciliation_discrepancy SET period = date_trunc('month', business_date)::date",
            migrations.RunSQL.noop,
        ),
        migrations.AddField(
            model_name='discrepancyaction',
            name='amount_minor',
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name='discrepancyaction',
            name='approval_above_minor',
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name='discrepancyaction',
            name='approved_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='discrepancyaction',
            name='approved_by',
            field=models.CharField(blank=True, db_default='', default='', max_length=150),
        ),
        migrations.AddField(
            model_name='discrepancyaction',
            name='currency',
            field=models.CharField(blank=True, db_default='', default='', max_length=3),
        ),
        migrations.AlterField(
            model_name='discrepancyaction',
            name='outcome',
            field=models.CharField(choices=[('waiting', 'Waiting'), ('started', 'Started'), ('ok', 'Ok'), ('failed', 'Failed'), ('rejected', 'Rejected')], default='started', max_length=8),
        ),
        migrations.AddIndex(
            model_name='discrepancy',
            index=models.Index(fields=['period'], name='discrepancy_by_period'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='discrepancy',
            trigger=pgtrigger.compiler.Trigger(name='state_follows_its_table', sql=pgtrigger.compiler.UpsertTriggerSql(declare='DECLARE _is_valid_transition BOOLEAN;', func='SELECT CONCAT(OLD."state", \':\', NEW."state") = ANY(\'{awaiting_approval:investigating,awaiting_approval:resolved,ignored:awaiting_approval,ignored:investigating,ignored:open,ignored:resolved,investigating:awaiting_approval,investigating:ignored,investigating:open,investigating:resolved,open:awaiting_approval,open:ignored,open:investigating,open:resolved,resolved:open,timing:awaiting_approval,timing:investigating,timing:open,timing:resolved}\'::text[]) INTO _is_valid_transition; IF (_is_valid_transition IS FALSE AND OLD."state" IS DISTINCT FROM NEW."state") THEN RAISE EXCEPTION \'pgtrigger: Invalid transition of field "state" from "%" to "%" on table %\', OLD."state", NEW."state", TG_TABLE_NAME; ELSE RETURN NEW; END IF;', hash='ea75785f7fb3e91ce419594f2067875068e68663', operation='UPDATE', pgid='pgtrigger_state_follows_its_table_07617', table='reconciliation_discrepancy', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='discrepancy',
            trigger=pgtrigger.compiler.Trigger(name='late_ones_fall_into_the_next_open_period', sql=pgtrigger.compiler.UpsertTriggerSql(func="\n                    IF TG_OP = 'UPDATE' AND OLD.state = 'resolved' AND NEW.state = 'resolved' THEN\n                        RETURN NEW;\n                    END IF;\n                    NEW.period := greatest(\n                        date_trunc('month', NEW.business_date)::date,\n                        (SELECT max(starts_on) + interval '1 month' FROM reconciliation_period WHERE state <> 'open')::date\n                    );\n                    RETURN NEW;\n                ", hash='db415d862460389a7279431986b8ee46709d6299', operation='INSERT OR UPDATE', pgid='pgtrigger_late_ones_fall_into_the_next_open_period_1b52d', table='reconciliation_discrepancy', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='discrepancyaction',
            trigger=pgtrigger.compiler.Trigger(name='completed_once', sql=pgtrigger.compiler.UpsertTriggerSql(condition='WHEN (OLD."outcome" IN (\'ok\', \'failed\', \'rejected\'))', func="RAISE EXCEPTION 'pgtrigger: Cannot update rows from % table', TG_TABLE_NAME;", hash='b9af1907533066a0e80b5e596c6e3c31b78bb3d2', operation='UPDATE', pgid='pgtrigger_completed_once_decdc', table='reconciliation_discrepancyaction', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='discrepancyaction',
            trigger=pgtrigger.compiler.Trigger(name='terms_are_final', sql=pgtrigger.compiler.UpsertTriggerSql(condition='WHEN (OLD."discrepancy_id" IS DISTINCT FROM (NEW."discrepancy_id") OR OLD."action" IS DISTINCT FROM (NEW."action") OR OLD."key" IS DISTINCT FROM (NEW."key") OR OLD."note" IS DISTINCT FROM (NEW."note") OR OLD."by" IS DISTINCT FROM (NEW."by") OR OLD."inputs" IS DISTINCT FROM (NEW."inputs") OR OLD."amount_minor" IS DISTINCT FROM (NEW."amount_minor") OR OLD."currency" IS DISTINCT FROM (NEW."currency") OR OLD."approval_above_minor" IS DISTINCT FROM (NEW."approval_above_minor"))', func="RAISE EXCEPTION 'pgtrigger: Cannot update rows from % table', TG_TABLE_NAME;", hash='b7707d03c9009191ace8bf3763e31a1cdb4f674b', operation='UPDATE', pgid='pgtrigger_terms_are_final_716eb', table='reconciliation_discrepancyaction', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='discrepancyaction',
            trigger=pgtrigger.compiler.Trigger(name='approved_once', sql=pgtrigger.compiler.UpsertTriggerSql(condition='WHEN (NOT (OLD."approved_by" = \'\') AND OLD."approved_by" IS DISTINCT FROM (NEW."approved_by"))', func="RAISE EXCEPTION 'pgtrigger: Cannot update rows from % table', TG_TABLE_NAME;", hash='29112db6b30c83e005642669308fb36f20524e89', operation='UPDATE', pgid='pgtrigger_approved_once_c454d', table='reconciliation_discrepancyaction', when='BEFORE')),
        ),
        migrations.AddConstraint(
            model_name='discrepancyaction',
            constraint=models.UniqueConstraint(condition=models.Q(('outcome__in', ['failed', 'rejected']), _negated=True), fields=('discrepancy', 'key'), name='discrepancy_action_once_per_key'),
        ),
        migrations.AddConstraint(
            model_name='discrepancyaction',
            constraint=models.UniqueConstraint(condition=models.Q(('outcome', 'waiting')), fields=('discrepancy',), name='discrepancy_one_action_waits_for_approval'),
        ),
        migrations.AddConstraint(
            model_name='discrepancyaction',
            constraint=models.CheckConstraint(condition=models.Q(('approved_by', ''), models.Q(('approved_by', models.F('by')), _negated=True), _connector='OR'), name='discrepancy_action_approver_is_a_second_person'),
        ),
        migrations.AddConstraint(
            model_name='discrepancyaction',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('approved_at__isnull', True), ('approved_by', '')), models.Q(models.Q(('approved_by', ''), _negated=True), ('approved_at__isnull', False)), _connector='OR'), name='discrepancy_action_approval_is_dated'),
        ),
        migrations.AddConstraint(
            model_name='discrepancyaction',
            constraint=models.CheckConstraint(condition=models.Q(('approval_above_minor__isnull', True), ('amount_minor__isnull', False), _connector='OR'), name='discrepancy_action_with_a_limit_has_an_amount'),
        ),
        migrations.AddConstraint(
            model_name='discrepancyaction',
            constraint=models.CheckConstraint(condition=models.Q(('approval_above_minor__isnull', True), ('amount_minor__lte', models.F('approval_above_minor')), models.Q(('approved_by', ''), _negated=True), ('outcome__in', ('waiting', 'rejected')), _connector='OR'), name='discrepancy_action_above_the_limit_is_approved'),
        ),
        migrations.AddIndex(
            model_name='auditblock',
            index=models.Index(fields=['period', 'kind', 'number'], name='audit_block_by_period'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='auditblock',
            trigger=pgtrigger.compiler.Trigger(name='append_only', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;", hash='2d20a81ae874a2fb6f9cc655a194c494a4a97949', operation='UPDATE OR DELETE', pgid='pgtrigger_append_only_49c93', table='reconciliation_auditblock', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='auditblock',
            trigger=pgtrigger.compiler.Trigger(name='never_emptied', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot truncate % table: what is written stays written', TG_TABLE_NAME;", hash='5fd69d0390feeb16566379d5ff51004d4fb28cbf', level='STATEMENT', operation='TRUNCATE', pgid='pgtrigger_never_emptied_dfd4c', table='reconciliation_auditblock', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='auditblock',
            trigger=pgtrigger.compiler.Trigger(name='chained_by_the_database', sql=pgtrigger.compiler.UpsertTriggerSql(declare='DECLARE last record;', func="\n                    SELECT b.number, b.sha256 INTO last FROM reconciliation_auditblock b ORDER BY b.number DESC LIMIT 1;\n                    NEW.number := coalesce(last.number, 0) + 1;\n                    NEW.before := coalesce(last.sha256, decode(repeat('00', 32), 'hex'));\n                    NEW.header := jsonb_build_object(\n                        'number', NEW.number, 'kind', NEW.kind, 'period', to_char(NEW.period, 'YYYY-MM'),\n                        'rows', NEW.rows, 'root', encode(NEW.root, 'hex'), 'before', encode(NEW.before, 'hex'))::text;\n                    NEW.sha256 := sha256(convert_to(NEW.header, 'UTF8'));\n                    RETURN NEW;\n                ", hash='21ff0b616ef6aadb64fc39e3bdfe5f59c6cb4459', operation='INSERT', pgid='pgtrigger_chained_by_the_database_73463', table='reconciliation_auditblock', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='auditblock',
            trigger=pgtrigger.compiler.Trigger(name='root_is_of_its_rows', sql=pgtrigger.compiler.UpsertTriggerSql(constraint='CONSTRAINT', declare='DECLARE found record;', func="\n                    SELECT count(*) AS rows,\n                           sha256(string_agg(sha256(convert_to(r.body, 'UTF8')), ''::bytea ORDER BY r.position)) AS root\n                    INTO found FROM reconciliation_auditrow r WHERE r.block_id = NEW.number;\n                    IF found.rows <> NEW.rows OR found.root IS DISTINCT FROM NEW.root THEN\n                        RAISE EXCEPTION 'audit block % is not what its rows say', NEW.number USING ERRCODE = '23514';\n                    END IF;\n                    RETURN NULL;\n                ", hash='b39198f09c00272594162e324dd30ebc283a3e92', operation='INSERT', pgid='pgtrigger_root_is_of_its_rows_8bc29', table='reconciliation_auditblock', timing='DEFERRABLE INITIALLY DEFERRED', when='AFTER')),
        ),
        migrations.AddField(
            model_name='auditrow',
            name='block',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='contents', to='reconciliation.auditblock'),
        ),
        migrations.AddConstraint(
            model_name='period',
            constraint=models.CheckConstraint(condition=models.Q(('starts_on__day', 1)), name='period_is_a_month'),
        ),
        migrations.AddConstraint(
            model_name='period',
            constraint=models.CheckConstraint(condition=models.Q(('state', 'open'), ('closings__gte', 1), _connector='OR'), name='period_closed_has_a_closing'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='period',
            trigger=pgtrigger.compiler.Trigger(name='state_follows_its_table', sql=pgtrigger.compiler.UpsertTriggerSql(declare='DECLARE _is_valid_transition BOOLEAN;', func='SELECT CONCAT(OLD."state", \':\', NEW."state") = ANY(\'{closed:reopening,open:closed,reopening:closed,reopening:open}\'::text[]) INTO _is_valid_transition; IF (_is_valid_transition IS FALSE AND OLD."state" IS DISTINCT FROM NEW."state") THEN RAISE EXCEPTION \'pgtrigger: Invalid transition of field "state" from "%" to "%" on table %\', OLD."state", NEW."state", TG_TABLE_NAME; ELSE RETURN NEW; END IF;', hash='6127f59526e02df9b3d52fb485ae70e410b63abe', operation='UPDATE', pgid='pgtrigger_state_follows_its_table_aa5f5', table='reconciliation_period', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='period',
            trigger=pgtrigger.compiler.Trigger(name='never_deleted', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot delete rows from % table', TG_TABLE_NAME;", hash='d0bc5dfdb700bd38c86c66a5779e35d6da3c7067', operation='DELETE', pgid='pgtrigger_never_deleted_67fbe', table='reconciliation_period', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='period',
            trigger=pgtrigger.compiler.Trigger(name='closes_and_opens_as_written_down', sql=pgtrigger.compiler.UpsertTriggerSql(func="\n                    IF OLD.state = 'open' AND NEW.state = 'closed' THEN\n                        IF NEW.closings <> OLD.closings + 1 OR NOT EXISTS (\n                            SELECT FROM reconciliation_periodclosing c\n                            WHERE c.period_id = NEW.starts_on AND c.number = NEW.closings\n                        ) THEN\n                            RAISE EXCEPTION 'period %: nothing says what it held', NEW.starts_on\n                                USING ERRCODE = '23514', CONSTRAINT = 'period_closed_has_its_closing';\n                        ELSIF EXISTS (\n                            SELECT FROM reconciliation_period p WHERE (p.starts_on < NEW.starts_on AND p.state = 'open')\n                               OR (p.starts_on > NEW.starts_on AND p.state <> 'open')\n                        ) THEN\n                            RAISE EXCEPTION 'period %: an earlier month is open, or a later one closed', NEW.starts_on\n                                USING ERRCODE = '23514', CONSTRAINT = 'period_closes_in_order';\n                        END IF;\n                    ELSIF NEW.closings <> OLD.closings THEN\n                        RAISE EXCEPTION 'period %: it is not closed by this', NEW.starts_on USING ERRCODE = '23514';\n                    ELSIF OLD.state <> 'open' AND NEW.state = 'open' THEN\n                        IF NOT EXISTS (\n                            SELECT FROM reconciliation_periodreopening r JOIN reconciliation_periodclosing c\n                                ON c.id = r.closing_id AND c.period_id = NEW.starts_on AND c.number = NEW.closings\n                            WHERE r.decision = 'approved'\n                        ) THEN\n                            RAISE EXCEPTION 'period %: two people reopen it', NEW.starts_on\n                                USING ERRCODE = '23514', CONSTRAINT = 'period_reopened_by_two';\n                        ELSIF EXISTS (\n                            SELECT FROM reconciliation_period p\n                            WHERE p.starts_on > NEW.starts_on AND p.state <> 'open'\n                        ) THEN\n                            RAISE EXCEPTION 'period %: a later month is closed', NEW.starts_on\n                                USING ERRCODE = '23514', CONSTRAINT = 'period_reopens_in_order';\n                        END IF;\n                    END IF;\n                    RETURN NEW;\n                ", hash='3d13425f4d28333c9c54c52917f95ba9ee2f1c9e', operation='UPDATE', pgid='pgtrigger_closes_and_opens_as_written_down_7701d', table='reconciliation_period', when='BEFORE')),
        ),
        migrations.AddField(
            model_name='periodclosing',
            name='period',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='reconciliation.period'),
        ),
        migrations.AddField(
            model_name='periodhistory',
            name='subject',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='history', to='reconciliation.period'),
        ),
        migrations.AddField(
            model_name='periodreopening',
            name='closing',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='reopenings', to='reconciliation.periodclosing'),
        ),
        migrations.AddIndex(
            model_name='auditrow',
            index=models.Index(fields=['object', '-block'], name='audit_row_by_object'),
        ),
        migrations.AddConstraint(
            model_name='auditrow',
            constraint=models.UniqueConstraint(fields=('block', 'position'), name='audit_row_once_per_position'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='auditrow',
            trigger=pgtrigger.compiler.Trigger(name='append_only', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;", hash='d7fe0f79e4236ff9442f5e6dd23225ae4814e188', operation='UPDATE OR DELETE', pgid='pgtrigger_append_only_7f94b', table='reconciliation_auditrow', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='auditrow',
            trigger=pgtrigger.compiler.Trigger(name='never_emptied', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot truncate % table: what is written stays written', TG_TABLE_NAME;", hash='c28b1f193f335825e2279d90fe13bf545cf4ca62', level='STATEMENT', operation='TRUNCATE', pgid='pgtrigger_never_emptied_013e3', table='reconciliation_auditrow', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='auditrow',
            trigger=pgtrigger.compiler.Trigger(name='belongs_to_an_open_block', sql=pgtrigger.compiler.UpsertTriggerSql(func="\n                    IF EXISTS (\n                        SELECT FROM (SELECT DISTINCT block_id FROM added) a\n                        JOIN reconciliation_auditblock b ON b.number = a.block_id\n                        WHERE b.rows < (SELECT count(*) FROM reconciliation_auditrow r WHERE r.block_id = a.block_id)\n                    ) THEN\n                        RAISE EXCEPTION 'an audit block is complete' USING ERRCODE = '23514';\n                    END IF;\n                    RETURN NULL;\n                ", hash='d41ce60b34b362c10b8d7ade4e1100268d4a24c7', level='STATEMENT', operation='INSERT', pgid='pgtrigger_belongs_to_an_open_block_69234', referencing='REFERENCING NEW TABLE AS added ', table='reconciliation_auditrow', when='AFTER')),
        ),
        migrations.AddConstraint(
            model_name='periodclosing',
            constraint=models.UniqueConstraint(fields=('period', 'number'), name='period_closing_once_per_number'),
        ),
        migrations.AddConstraint(
            model_name='periodclosing',
            constraint=models.CheckConstraint(condition=models.Q(('head__gte', models.F('after'))), name='period_closing_sees_what_was_seen_before'),
        ),
        migrations.AddConstraint(
            model_name='periodclosing',
            constraint=models.CheckConstraint(condition=models.Q(('number', 1), ('differences__isnull', False), _connector='OR'), name='period_closed_again_says_what_changed'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='periodclosing',
            trigger=pgtrigger.compiler.Trigger(name='append_only', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;", hash='865ecf174d66d72c94608419a726e42107d10285', operation='UPDATE OR DELETE', pgid='pgtrigger_append_only_5103d', table='reconciliation_periodclosing', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='periodclosing',
            trigger=pgtrigger.compiler.Trigger(name='closes_on_settled_books', sql=pgtrigger.compiler.UpsertTriggerSql(func="\n                    IF coalesce(payments_sealed_through(), '-infinity') < (NEW.period_id + interval '1 month') AT TIME ZONE 'UTC' THEN\n                        RAISE EXCEPTION 'period %: entries can still be posted into it', NEW.period_id\n                            USING ERRCODE = '23514', CONSTRAINT = 'period_closes_on_settled_books';\n                    END IF;\n                    RETURN NEW;\n                ", hash='cd50539faea731f39c31e0ea8d6d2c10fc529e2e', operation='INSERT', pgid='pgtrigger_closes_on_settled_books_de8ea', table='reconciliation_periodclosing', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='periodhistory',
            trigger=pgtrigger.compiler.Trigger(name='append_only', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;", hash='fa5eb653e4947741dc43dd362b0a0e151bee24a4', operation='UPDATE OR DELETE', pgid='pgtrigger_append_only_8a4e5', table='reconciliation_periodhistory', when='BEFORE')),
        ),
        migrations.AddConstraint(
            model_name='periodreopening',
            constraint=models.CheckConstraint(condition=models.Q(('why', ''), _negated=True), name='period_reopening_has_a_reason'),
        ),
        migrations.AddConstraint(
            model_name='periodreopening',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('decision', 'approved'), _negated=True), models.Q(('decided_by', models.F('asked_by')), _negated=True), _connector='OR'), name='period_reopening_takes_a_second_person'),
        ),
        migrations.AddConstraint(
            model_name='periodreopening',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('decided_at__isnull', True), ('decided_by', ''), ('decision', '')), models.Q(models.Q(('decision', ''), _negated=True), models.Q(('decided_by', ''), _negated=True), models.Q(('decided_why', ''), _negated=True), ('decided_at__isnull', False)), _connector='OR'), name='period_reopening_decision_has_a_name'),
        ),
        migrations.AddConstraint(
            model_name='periodreopening',
            constraint=models.UniqueConstraint(condition=models.Q(('decision', '')), fields=('closing',), name='period_reopening_one_at_a_time'),
        ),
        migrations.AddConstraint(
            model_name='periodreopening',
            constraint=models.UniqueConstraint(condition=models.Q(('decision', 'approved')), fields=('closing',), name='period_reopened_once_per_closing'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='periodreopening',
            trigger=pgtrigger.compiler.Trigger(name='never_deleted', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot delete rows from % table', TG_TABLE_NAME;", hash='0462e73b6211055cc598acfb91d7f988b515816f', operation='DELETE', pgid='pgtrigger_never_deleted_eb40c', table='reconciliation_periodreopening', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='periodreopening',
            trigger=pgtrigger.compiler.Trigger(name='question_is_final', sql=pgtrigger.compiler.UpsertTriggerSql(condition='WHEN (OLD."closing_id" IS DISTINCT FROM (NEW."closing_id") OR OLD."asked_by" IS DISTINCT FROM (NEW."asked_by") OR OLD."why" IS DISTINCT FROM (NEW."why") OR OLD."asked_at" IS DISTINCT FROM (NEW."asked_at"))', func="RAISE EXCEPTION 'pgtrigger: Cannot update rows from % table', TG_TABLE_NAME;", hash='7364db32687e08bcf618a743f836592acacb563f', operation='UPDATE', pgid='pgtrigger_question_is_final_72fa8', table='reconciliation_periodreopening', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='periodreopening',
            trigger=pgtrigger.compiler.Trigger(name='decided_once', sql=pgtrigger.compiler.UpsertTriggerSql(condition='WHEN (NOT (OLD."decision" = \'\'))', func="RAISE EXCEPTION 'pgtrigger: Cannot update rows from % table', TG_TABLE_NAME;", hash='b213fd58847ae67fb1bbfc7c17d290ec0cc77547', operation='UPDATE', pgid='pgtrigger_decided_once_10bcf', table='reconciliation_periodreopening', when='BEFORE')),
        ),
    ]
