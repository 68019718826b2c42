"""Notes of days whose rows changed. The triggers lock the table for the moment in which they are made."""

import pgtrigger.compiler
import pgtrigger.migrations
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('reconciliation', '0015_statement_of_a_bank_line'),
    ]

    operations = [
        migrations.CreateModel(
            name='ChangedDay',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('day', models.DateField()),
            ],
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='providertransaction',
            trigger=pgtrigger.compiler.Trigger(name='notes_days_of_new_rows', sql=pgtrigger.compiler.UpsertTriggerSql(func="\n                    INSERT INTO reconciliation_changedday (day)\n                    SELECT DISTINCT (created_at AT TIME ZONE 'UTC')::date FROM now_there;\n                    RETURN NULL;\n                ", hash='008e5662fb091f369f0713e2fb35d50dd96edb7a', level='STATEMENT', operation='INSERT', pgid='pgtrigger_notes_days_of_new_rows_9bf27', referencing='REFERENCING NEW TABLE AS now_there ', table='reconciliation_providertransaction', when='AFTER')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='providertransaction',
            trigger=pgtrigger.compiler.Trigger(name='notes_days_of_changed_rows', sql=pgtrigger.compiler.UpsertTriggerSql(func="\n                    INSERT INTO reconciliation_changedday (day)\n                    SELECT DISTINCT (moment AT TIME ZONE 'UTC')::date\n                    FROM before b JOIN now_there n ON n.id = b.id\n                    CROSS JOIN LATERAL (VALUES (b.created_at), (n.created_at)) AS side (moment)\n                    WHERE (b.created_at, b.reporting_category, b.source, b.amount_minor, b.fee_minor, b.net_minor, b.currency, b.payment_intent, b.charge, b.source_status, b.order_reference, b.payment_number, b.instance, b.withdrawn_at) IS DISTINCT FROM (n.created_at, n.reporting_category, n.source, n.amount_minor, n.fee_minor, n.net_minor, n.currency, n.payment_intent, n.charge, n.source_status, n.order_reference, n.payment_number, n.instance, n.withdrawn_at);\n                    RETURN NULL;\n                ", hash='e33c1a6ed625047b5bea1f05dabe0014a0bdba0f', level='STATEMENT', operation='UPDATE', pgid='pgtrigger_notes_days_of_changed_rows_e3be3', referencing='REFERENCING OLD TABLE AS before  NEW TABLE AS now_there ', table='reconciliation_providertransaction', when='AFTER')),
        ),
        migrations.AddIndex(
            model_name='changedday',
            index=models.Index(fields=['day'], name='changed_day_by_day'),
        ),
    ]
