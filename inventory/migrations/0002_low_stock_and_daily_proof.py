import django.db.models.expressions
import pgtrigger.compiler
import pgtrigger.migrations
from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models


class Migration(migrations.Migration):
    """Thresholds, and the table of daily proofs. The log may be long: a column without a default and a constraint that is not
    validated yet are notes in PostgreSQL's catalogue; old rows are looked at by the next migration, beside the sales.
    """

    dependencies = [
        ('catalog', '0003_product_version'),
        ('inventory', '0001_inventory_created'),
    ]

    operations = [
        migrations.CreateModel(
            name='StockCheck',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('day', models.DateField(unique=True)),
                ('began_at', models.DateTimeField()),
                ('finished_at', models.DateTimeField()),
                ('products', models.BigIntegerField()),
                ('movements', models.BigIntegerField()),
                ('found', models.IntegerField()),
                ('differences', models.JSONField(default=list)),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('found__gte', 0)), name='stock_check_counts_what_it_found')],
            },
        ),
        migrations.AddField(
            model_name='stock',
            name='low_noticed_at',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='stock',
            name='low_threshold',
            field=models.BigIntegerField(blank=True, null=True),
        ),
        pgtrigger.migrations.AddTrigger(
            model_name='stock',
            trigger=pgtrigger.compiler.Trigger(name='never_deleted', sql=pgtrigger.compiler.UpsertTriggerSql(func="RAISE EXCEPTION 'pgtrigger: Cannot delete rows from % table', TG_TABLE_NAME;", hash='64b0b7c4de6710712042885c6a7a8e8108b3451e', operation='DELETE', pgid='pgtrigger_never_deleted_8ef51', table='inventory_stock', when='BEFORE')),
        ),
        AddConstraintNotValid(
            model_name='stock',
            constraint=models.CheckConstraint(condition=models.Q(('low_threshold__isnull', True), ('low_threshold__gte', 0), _connector='OR'), name='stock_low_threshold_not_negative'),
        ),
        AddConstraintNotValid(
            model_name='stock',
            constraint=models.CheckConstraint(condition=models.Q(('low_threshold__isnull', True), ('low_threshold__lt', django.db.models.expressions.CombinedExpression(models.F('on_hand'), '-', models.F('reserved'))), ('low_noticed_at__isnull', False), _connector='OR'), name='stock_that_is_low_is_noticed'),
        ),
        AddConstraintNotValid(
            model_name='stockmovement',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('on_hand_change', django.db.models.expressions.CombinedExpression(models.F('quantity'), '*', models.Value(1))), ('operation__in', ('restock', 'release', 'return_sold', 'adjust')), ('reserved_change', django.db.models.expressions.CombinedExpression(models.F('quantity'), '*', models.Value(0)))), models.Q(('on_hand_change', django.db.models.expressions.CombinedExpression(models.F('quantity'), '*', models.Value(-1))), ('operation__in', ('deduct', 'adjust')), ('reserved_change', django.db.models.expressions.CombinedExpression(models.F('quantity'), '*', models.Value(0)))), models.Q(('on_hand_change', django.db.models.expressions.CombinedExpression(models.F('quantity'), '*', models.Value(0))), ('operation__in', ('reserve',)), ('reserved_change', django.db.models.expressions.CombinedExpression(models.F('quantity'), '*', models.Value(1)))), models.Q(('on_hand_change', django.db.models.expressions.CombinedExpression(models.F('quantity'), '*', models.Value(0))), ('operation__in', ('release_reserved',)), ('reserved_change', django.db.models.expressions.CombinedExpression(models.F('quantity'), '*', models.Value(-1)))), models.Q(('on_hand_change', django.db.models.expressions.CombinedExpression(models.F('quantity'), '*', models.Value(-1))), ('operation__in', ('commit',)), ('reserved_change', django.db.models.expressions.CombinedExpression(models.F('quantity'), '*', models.Value(-1)))), _connector='OR'), name='stock_movement_changes_what_its_operation_says'),
        ),
    ]
