"""Bank lines know every statement in which they stand. Of those that were read before, the one that told them first is known."""

import django.db.models.deletion
import pgtrigger.compiler
import pgtrigger.migrations
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('reconciliation', '0018_what_a_reading_holds'),
    ]

    operations = [
        migrations.CreateModel(
            name='BankStatementLine',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('place', models.PositiveIntegerField()),
            ],
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='bankstatement',
            trigger=pgtrigger.compiler.Trigger(name='bank_statement_adds_up', sql=pgtrigger.compiler.UpsertTriggerSql(constraint='CONSTRAINT', declare='DECLARE found record;', func="\n                    SELECT count(*) AS lines, coalesce(sum(b.amount_minor), 0) AS amount_minor INTO found\n                    FROM reconciliation_bankstatementline l JOIN reconciliation_bankline b ON b.id = l.line_id\n                    WHERE l.statement_id = NEW.id;\n                    IF found.lines <> NEW.lines OR NEW.opening_minor + found.amount_minor <> NEW.closing_minor THEN\n                        RAISE EXCEPTION 'bank statement % does not add up', NEW.id USING ERRCODE = '23514';\n                    END IF;\n                    RETURN NULL;\n                ", hash='d26122c31c9bfc0980f8347589f0f3ca579a1c69', operation='INSERT', pgid='pgtrigger_bank_statement_adds_up_77ce8', table='reconciliation_bankstatement', timing='DEFERRABLE INITIALLY DEFERRED', when='AFTER')),
        ),
        migrations.AddField(
            model_name='bankstatementline',
            name='line',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='reconciliation.bankline'),
        ),
        migrations.AddField(
            model_name='bankstatementline',
            name='statement',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='contents', to='reconciliation.bankstatement'),
        ),
        migrations.AddConstraint(
            model_name='bankstatementline',
            constraint=models.UniqueConstraint(fields=('statement', 'line'), name='bank_statement_line_once'),
        ),
        migrations.AddConstraint(
            model_name='bankstatementline',
            constraint=models.UniqueConstraint(fields=('statement', 'place'), name='bank_statement_place_once'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='bankstatementline',
            trigger=pgtrigger.compiler.Trigger(name='append_only', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot update or delete rows from % table', TG_TABLE_NAME;", hash='18d221776795e37a821875732f1bca0b5b8322a2', operation='UPDATE OR DELETE', pgid='pgtrigger_append_only_95358', table='reconciliation_bankstatementline', when='BEFORE')),
        ),
        migrations.RunSQL(
            """
            INSERT INTO reconciliation_bankstatementline (statement_id, line_id, place)
            SELECT statement_id, id, row_number() OVER (PARTITION BY statement_id ORDER BY line, id)
            FROM reconciliation_bankline WHERE statement_id IS NOT NULL
            """,
            migrations.RunSQL.noop,
        ),
    ]
