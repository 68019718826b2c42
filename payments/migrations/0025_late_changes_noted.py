"""Notes of days on which our movements changed late. The triggers lock each table for the moment in which they are made."""

import pgtrigger.compiler
import pgtrigger.migrations
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('payments', '0024_corrections_of_corrections'),
    ]

    operations = [
        migrations.CreateModel(
            name='LateChange',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('day', models.DateField()),
            ],
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='dispute',
            trigger=pgtrigger.compiler.Trigger(name='notes_late_change', sql=pgtrigger.compiler.UpsertTriggerSql(condition="WHEN ((NEW.opened_at AT TIME ZONE 'UTC')::date < ((clock_timestamp() + interval '10 minutes') AT TIME ZONE 'UTC')::date)", func="\n            IF TG_OP = 'UPDATE' THEN\n                IF (OLD.opened_at, OLD.status, OLD.withdrawn_minor, OLD.currency, OLD.provider_reference) IS NOT DISTINCT FROM (NEW.opened_at, NEW.status, NEW.withdrawn_minor, NEW.currency, NEW.provider_reference) THEN\n                    RETURN NULL;\n                END IF;\n                INSERT INTO payments_latechange (day)\n                SELECT (OLD.opened_at AT TIME ZONE 'UTC')::date WHERE OLD.opened_at <> NEW.opened_at;\n            END IF;\n            INSERT INTO payments_latechange (day) VALUES ((NEW.opened_at AT TIME ZONE 'UTC')::date);\n            RETURN NULL;\n        ", hash='ddc0f12ddf70bd71c82f66172f02d0422c609e38', operation='INSERT OR UPDATE', pgid='pgtrigger_notes_late_change_729ea', table='payments_dispute', when='AFTER')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='payment',
            trigger=pgtrigger.compiler.Trigger(name='notes_late_change', sql=pgtrigger.compiler.UpsertTriggerSql(condition="WHEN ((NEW.captured_at AT TIME ZONE 'UTC')::date < ((clock_timestamp() + interval '10 minutes') AT TIME ZONE 'UTC')::date)", func="\n            IF TG_OP = 'UPDATE' THEN\n                IF (OLD.captured_at, OLD.status, OLD.captured_minor, OLD.corrected_minor, OLD.currency, OLD.charge_reference, OLD.provider_reference) IS NOT DISTINCT FROM (NEW.captured_at, NEW.status, NEW.captured_minor, NEW.corrected_minor, NEW.currency, NEW.charge_reference, NEW.provider_reference) THEN\n                    RETURN NULL;\n                END IF;\n                INSERT INTO payments_latechange (day)\n                SELECT (OLD.captured_at AT TIME ZONE 'UTC')::date WHERE OLD.captured_at <> NEW.captured_at;\n            END IF;\n            INSERT INTO payments_latechange (day) VALUES ((NEW.captured_at AT TIME ZONE 'UTC')::date);\n            RETURN NULL;\n        ", hash='fbee29bdb882eb3355178791c8ccf9a4997b3e6a', operation='INSERT OR UPDATE', pgid='pgtrigger_notes_late_change_f7698', table='payments_payment', when='AFTER')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='payout',
            trigger=pgtrigger.compiler.Trigger(name='notes_late_change', sql=pgtrigger.compiler.UpsertTriggerSql(condition="WHEN ((NEW.provider_created_at AT TIME ZONE 'UTC')::date < ((clock_timestamp() + interval '10 minutes') AT TIME ZONE 'UTC')::date)", func="\n            IF TG_OP = 'UPDATE' THEN\n                IF (OLD.provider_created_at, OLD.status, OLD.amount_minor, OLD.currency, OLD.provider_reference) IS NOT DISTINCT FROM (NEW.provider_created_at, NEW.status, NEW.amount_minor, NEW.currency, NEW.provider_reference) THEN\n                    RETURN NULL;\n                END IF;\n                INSERT INTO payments_latechange (day)\n                SELECT (OLD.provider_created_at AT TIME ZONE 'UTC')::date WHERE OLD.provider_created_at <> NEW.provider_created_at;\n            END IF;\n            INSERT INTO payments_latechange (day) VALUES ((NEW.provider_created_at AT TIME ZONE 'UTC')::date);\n            RETURN NULL;\n        ", hash='0d251e5bf13112ca19c721a5d44f975786276c34', operation='INSERT OR UPDATE', pgid='pgtrigger_notes_late_change_a4080', table='payments_payout', when='AFTER')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='refund',
            trigger=pgtrigger.compiler.Trigger(name='notes_late_change', sql=pgtrigger.compiler.UpsertTriggerSql(condition="WHEN ((NEW.provider_created_at AT TIME ZONE 'UTC')::date < ((clock_timestamp() + interval '10 minutes') AT TIME ZONE 'UTC')::date)", func="\n            IF TG_OP = 'UPDATE' THEN\n                IF (OLD.provider_created_at, OLD.status, OLD.amount_minor, OLD.corrected_minor, OLD.currency, OLD.provider_reference) IS NOT DISTINCT FROM (NEW.provider_created_at, NEW.status, NEW.amount_minor, NEW.corrected_minor, NEW.currency, NEW.provider_reference) THEN\n                    RETURN NULL;\n                END IF;\n                INSERT INTO payments_latechange (day)\n                SELECT (OLD.provider_created_at AT TIME ZONE 'UTC')::date WHERE OLD.provider_created_at <> NEW.provider_created_at;\n            END IF;\n            INSERT INTO payments_latechange (day) VALUES ((NEW.provider_created_at AT TIME ZONE 'UTC')::date);\n            RETURN NULL;\n        ", hash='c764cded7d7014e2597b2b00e69f5fb703c20595', operation='INSERT OR UPDATE', pgid='pgtrigger_notes_late_change_f4bb4', table='payments_refund', when='AFTER')),
        ),
    ]
