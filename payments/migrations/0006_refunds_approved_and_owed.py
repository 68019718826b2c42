import django.db.models.deletion
import pgtrigger.compiler
import pgtrigger.migrations
from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models
from django.db.models import F, Q


class Migration(migrations.Migration):
    """Who approved a refund and under which limit, and what a payment owes since refunds of it came back.

    Refunds and payments are big tables: constant defaults rewrite no rows, and the checks bind new rows at once. That
    the old rows obey them is proved by the next migration, which builds the indexes as well and locks nobody out.
    """

    dependencies = [
        ('payments', '0005_payment_lost_validated'),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='refund',
            options={'permissions': [('approve_refund', 'Can approve and reject refunds that somebody else asked for')]},
        ),
        pgtrigger.migrations.RemoveTrigger(
            model_name='refund',
            name='status_follows_its_table',
        ),
        migrations.AddField(
            model_name='payment',
            name='refunds_excess_minor',
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='payment',
            name='refunds_owed_minor',
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='refund',
            name='again_of',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='again', db_index=False, to='payments.refund'),
        ),
        migrations.AddField(
            model_name='refund',
            name='approval_above_minor',
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name='refund',
            name='approved_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='refund',
            name='approved_by',
            field=models.CharField(blank=True, max_length=150),
        ),
        migrations.AddField(
            model_name='refund',
            name='automatic',
            field=models.BooleanField(default=False),
        ),
        migrations.AddField(
            model_name='refund',
            name='failed_late_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='refund',
            name='paid_outside',
            field=models.BooleanField(default=False),
        ),
        migrations.AlterField(
            model_name='account',
            name='kind',
            field=models.CharField(choices=[('provider_clearing', 'Provider Clearing'), ('bank', 'Bank'), ('unallocated_receipts', 'Unallocated Receipts'), ('customer', 'Customer'), ('merchant_payable', 'Merchant Payable'), ('fees', 'Fees'), ('refunds_in_flight', 'Refunds In Flight'), ('refunds_owed', 'Refunds Owed'), ('disputes', 'Disputes'), ('write_offs', 'Write Offs'), ('rounding', 'Rounding')], max_length=24),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='refund',
            trigger=pgtrigger.compiler.Trigger(name='status_follows_its_table', sql=pgtrigger.compiler.UpsertTriggerSql(declare='DECLARE _is_valid_transition BOOLEAN;', func='SELECT CONCAT(OLD."status", \':\', NEW."status") = ANY(\'{awaiting_approval:cancelled,awaiting_approval:processing,failed:pending,failed:requires_action,failed:succeeded,pending:cancelled,pending:failed,pending:requires_action,pending:succeeded,processing:cancelled,processing:failed,processing:pending,processing:requires_action,processing:succeeded,requested:awaiting_approval,requested:processing,requires_action:cancelled,requires_action:failed,requires_action:pending,requires_action:succeeded,succeeded:failed}\'::text[]) INTO _is_valid_transition; IF (_is_valid_transition IS FALSE AND OLD."status" IS DISTINCT FROM NEW."status") THEN RAISE EXCEPTION \'pgtrigger: Invalid transition of field "status" from "%" to "%" on table %\', OLD."status", NEW."status", TG_TABLE_NAME; ELSE RETURN NEW; END IF;', hash='e3ffded4eefdfce5e3062714e8778b40b9570d0f', operation='UPDATE', pgid='pgtrigger_status_follows_its_table_76989', table='payments_refund', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='refund',
            trigger=pgtrigger.compiler.Trigger(name='terms_are_final', sql=pgtrigger.compiler.UpsertTriggerSql(condition='WHEN (OLD."payment_id" IS DISTINCT FROM (NEW."payment_id") OR OLD."amount_minor" IS DISTINCT FROM (NEW."amount_minor") OR OLD."currency" IS DISTINCT FROM (NEW."currency") OR OLD."requested_by" IS DISTINCT FROM (NEW."requested_by") OR OLD."approval_above_minor" IS DISTINCT FROM (NEW."approval_above_minor"))', func="RAISE EXCEPTION 'pgtrigger: Cannot update rows from % table', TG_TABLE_NAME;", hash='36c4b3f307a84d86f9c5e5a1be050e1341f44140', operation='UPDATE', pgid='pgtrigger_terms_are_final_d03ce', table='payments_refund', when='BEFORE')),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='refund',
            trigger=pgtrigger.compiler.Trigger(name='approved_once', sql=pgtrigger.compiler.UpsertTriggerSql(condition='WHEN (NOT (OLD."approved_by" = \'\') AND OLD."approved_by" IS DISTINCT FROM (NEW."approved_by"))', func="RAISE EXCEPTION 'pgtrigger: Cannot update rows from % table', TG_TABLE_NAME;", hash='83fb7f1aca1f0bea9c7e994bd815dc9b46701c85', operation='UPDATE', pgid='pgtrigger_approved_once_d185e', table='payments_refund', when='BEFORE')),
        ),
        AddConstraintNotValid(
            model_name="payment",
            constraint=models.CheckConstraint(
                condition=Q(refunds_owed_minor=0)
                | Q(refunds_owed_minor__gt=0)
                & Q(refunds_owed_minor__lte=F("captured_minor") - F("refunds_committed_minor")),
                name="payment_owes_what_is_not_refunded",
            ),
        ),
        AddConstraintNotValid(
            model_name="payment",
            constraint=models.CheckConstraint(
                condition=Q(refunds_excess_minor__gte=0), name="payment_refund_excess_not_negative"
            ),
        ),
        AddConstraintNotValid(
            model_name="refund",
            constraint=models.CheckConstraint(
                condition=Q(approved_by="") | ~Q(approved_by=F("requested_by")),
                name="refund_approver_is_a_second_person",
            ),
        ),
        AddConstraintNotValid(
            model_name="refund",
            constraint=models.CheckConstraint(
                condition=Q(approved_by="", approved_at__isnull=True)
                | ~Q(approved_by="") & Q(approved_at__isnull=False),
                name="refund_approval_is_dated",
            ),
        ),
        AddConstraintNotValid(
            model_name="refund",
            constraint=models.CheckConstraint(
                condition=Q(approval_above_minor__isnull=True)
                | Q(amount_minor__lte=F("approval_above_minor"))
                | ~Q(approved_by="")
                | Q(status__in=("requested", "awaiting_approval", "cancelled")),
                name="refund_above_the_limit_is_approved",
            ),
        ),
    ]
