from django.contrib.postgres.operations import AddIndexConcurrently, ValidateConstraint
from django.db import migrations, models


class Migration(migrations.Migration):
    """Each statement commits for itself and takes a lock that neither readers nor writers wait for, however long it reads."""

    atomic = False

    dependencies = [
        ('inventory', '0002_low_stock_and_daily_proof'),
    ]

    operations = [
        AddIndexConcurrently(
            model_name='stock',
            index=models.Index(condition=models.Q(('low_noticed_at__isnull', False)), fields=['product'], name='stock_that_is_low'),
        ),
        ValidateConstraint(model_name='stock', name='stock_low_threshold_not_negative'),
        ValidateConstraint(model_name='stock', name='stock_that_is_low_is_noticed'),
        ValidateConstraint(model_name='stockmovement', name='stock_movement_changes_what_its_operation_says'),
    ]
