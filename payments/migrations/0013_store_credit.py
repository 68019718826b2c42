import django.db.models.expressions
import django.db.models.functions.datetime
import foundation.ids
import pgtrigger.compiler
import pgtrigger.migrations
from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models


class Migration(migrations.Migration):
    """Store credit and points: columns beside amounts, accounts, and who granted.

    Payments, refunds and accounts are big tables: constant defaults rewrite no rows, and the new checks bind new rows at
    once. That the old rows obey them is proved by the next migration, which locks nobody out.
    """

    dependencies = [
        ('payments', '0012_rechecks_by_what_is_open'),
    ]

    operations = [
        migrations.CreateModel(
            name='CreditGrant',
            fields=[
                ('id', models.UUIDField(default=foundation.ids.uuid7, editable=False, primary_key=True, serialize=False)),
                ('merchant_id', models.UUIDField()),
                ('customer', models.CharField(max_length=255)),
                ('currency', models.CharField(max_length=3)),
                ('amount_minor', models.BigIntegerField()),
                ('status', models.CharField(default='awaiting_approval', max_length=20)),
                ('reason', models.TextField()),
                ('requested_by', models.CharField(max_length=150)),
                ('needs_approval', models.BooleanField()),
                ('decided_by', models.CharField(blank=True, max_length=150)),
                ('decided_why', models.TextField(blank=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('decided_at', models.DateTimeField(null=True)),
            ],
            options={
                'permissions': [('grant_store_credit', 'Can grant store credit to customers'), ('approve_store_credit', 'Can approve store credit that another person granted')],
            },
        ),
        pgtrigger.migrations.RemoveTrigger(
            model_name='refund',
            name='terms_are_final',
        ),
        migrations.RemoveConstraint(
            model_name='account',
            name='account_only_customers_keep_a_balance',
        ),
        migrations.RemoveConstraint(
            model_name='payment',
            name='payment_amount_positive',
        ),
        migrations.RemoveConstraint(
            model_name='payment',
            name='payment_succeeded_has_capture',
        ),
        migrations.RemoveConstraint(
            model_name='refund',
            name='refund_amount_positive',
        ),
        migrations.RemoveConstraint(
            model_name='refund',
            name='refund_above_the_limit_is_approved',
        ),
        migrations.AddField(
            model_name='payment',
            name='credit_captured_minor',
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name='payment',
            name='credit_minor',
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name='payment',
            name='credit_refunded_minor',
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name='payment',
            name='credit_refunds_committed_minor',
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name='refund',
            name='credit_minor',
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AlterField(
            model_name='account',
            name='kind',
            field=models.CharField(choices=[('provider_clearing', 'Provider Clearing'), ('bank', 'Bank'), ('unallocated_receipts', 'Unallocated Receipts'), ('customer', 'Customer'), ('store_credit', 'Store Credit'), ('store_credit_held', 'Store Credit Held'), ('points', 'Points'), ('points_issued', 'Points Issued'), ('merchant_payable', 'Merchant Payable'), ('fees', 'Fees'), ('refunds_in_flight', 'Refunds In Flight'), ('refunds_owed', 'Refunds Owed'), ('disputes', 'Disputes'), ('write_offs', 'Write Offs'), ('rounding', 'Rounding')], max_length=24),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='refund',
            trigger=pgtrigger.compiler.Trigger(name='terms_are_final', sql=pgtrigger.compiler.UpsertTriggerSql(condition='WHEN (OLD."payment_id" IS DISTINCT FROM (NEW."payment_id") OR OLD."amount_minor" IS DISTINCT FROM (NEW."amount_minor") OR OLD."credit_minor" IS DISTINCT FROM (NEW."credit_minor") OR OLD."currency" IS DISTINCT FROM (NEW."currency") OR OLD."requested_by" IS DISTINCT FROM (NEW."requested_by") OR OLD."approval_above_minor" IS DISTINCT FROM (NEW."approval_above_minor"))', func="RAISE EXCEPTION 'pgtrigger: Cannot update rows from % table', TG_TABLE_NAME;", hash='3c17e374d03b26970e8fcd8cc58d281b753d308d', operation='UPDATE', pgid='pgtrigger_terms_are_final_d03ce', table='payments_refund', when='BEFORE')),
        ),
        AddConstraintNotValid(
            model_name='account',
            constraint=models.CheckConstraint(condition=models.Q(('kind__in', ('customer', 'store_credit', 'store_credit_held', 'points')), ('balance_minor', 0), _connector='OR'), name='account_only_customers_keep_a_balance'),
        ),
        AddConstraintNotValid(
            model_name='account',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('currency', 'pts'), ('kind__in', ('points', 'points_issued'))), models.Q(('kind__in', ('points', 'points_issued')), ('currency', 'pts'), _connector='OR', _negated=True), _connector='OR'), name='account_points_are_no_money'),
        ),
        AddConstraintNotValid(
            model_name='payment',
            constraint=models.CheckConstraint(condition=models.Q(('amount_minor__gte', 0), ('credit_minor__gte', 0), models.Q(('amount_minor__gt', 0), ('credit_minor__gt', 0), _connector='OR')), name='payment_amount_positive'),
        ),
        AddConstraintNotValid(
            model_name='payment',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('credit_captured_minor', models.F('credit_minor')), ('settling', True)), models.Q(('credit_captured_minor', 0), ('settling', False)), _connector='OR'), name='payment_settles_with_its_credit'),
        ),
        AddConstraintNotValid(
            model_name='payment',
            constraint=models.CheckConstraint(condition=models.Q(('credit_refunded_minor__gte', 0), ('credit_refunds_committed_minor__gte', models.F('credit_refunded_minor')), ('credit_refunds_committed_minor__lte', django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(models.F('captured_minor'), '+', models.F('credit_captured_minor')), '-', models.F('refunds_committed_minor')))), name='payment_refunds_within_collected'),
        ),
        AddConstraintNotValid(
            model_name='payment',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('status', 'succeeded'), _negated=True), models.Q(('captured_at__isnull', False), ('captured_minor__gt', 0)), models.Q(('amount_minor', 0), ('credit_captured_minor__gt', 0)), _connector='OR'), name='payment_succeeded_has_capture'),
        ),
        AddConstraintNotValid(
            model_name='refund',
            constraint=models.CheckConstraint(condition=models.Q(('amount_minor__gte', 0), ('credit_minor__gte', 0), models.Q(('amount_minor__gt', 0), ('credit_minor__gt', 0), _connector='OR')), name='refund_amount_positive'),
        ),
        AddConstraintNotValid(
            model_name='refund',
            constraint=models.CheckConstraint(condition=models.Q(('approval_above_minor__isnull', True), ('amount_minor__lte', django.db.models.expressions.CombinedExpression(models.F('approval_above_minor'), '-', models.F('credit_minor'))), models.Q(('approved_by', ''), _negated=True), ('status__in', ('requested', 'awaiting_approval', 'cancelled')), _connector='OR'), name='refund_above_the_limit_is_approved'),
        ),
        migrations.AddIndex(
            model_name='creditgrant',
            index=models.Index(condition=models.Q(('status', 'awaiting_approval')), fields=['id'], name='credit_grant_waiting'),
        ),
        migrations.AddConstraint(
            model_name='creditgrant',
            constraint=models.CheckConstraint(condition=models.Q(('amount_minor__gt', 0)), name='credit_grant_amount_positive'),
        ),
        migrations.AddConstraint(
            model_name='creditgrant',
            constraint=models.CheckConstraint(condition=models.Q(('reason', ''), _negated=True), name='credit_grant_has_a_reason'),
        ),
        migrations.AddConstraint(
            model_name='creditgrant',
            constraint=models.CheckConstraint(condition=models.Q(('decided_by', ''), models.Q(('decided_by', models.F('requested_by')), _negated=True), _connector='OR'), name='credit_grant_takes_two'),
        ),
        migrations.AddConstraint(
            model_name='creditgrant',
            constraint=models.CheckConstraint(condition=models.Q(('needs_approval', False), models.Q(('status', 'granted'), _negated=True), models.Q(('decided_by', ''), _negated=True), _connector='OR'), name='credit_grant_above_the_limit_is_approved'),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='creditgrant',
            trigger=pgtrigger.compiler.Trigger(name='status_follows_its_table', sql=pgtrigger.compiler.UpsertTriggerSql(declare='DECLARE _is_valid_transition BOOLEAN;', func='SELECT CONCAT(OLD."status", \':\', NEW."status") = ANY(\'{awaiting_approval:granted,awaiting_approval:refused}\'::text[]) INTO _is_valid_transition; IF (_is_valid_transition IS FALSE AND OLD."status" IS DISTINCT FROM NEW."status") THEN RAISE EXCEPTION \'pgtrigger: Invalid transition of field "status" from "%" to "%" on table %\', OLD."status", NEW."status", TG_TABLE_NAME; ELSE RETURN NEW; END IF;', hash='5f98a5cc4d43e24866bd86cef6c47772682ec14d', operation='UPDATE', pgid='pgtrigger_status_follows_its_table_60fe1', table='payments_creditgrant', when='BEFORE')),
        ),
    ]
