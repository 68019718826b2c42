"""A word more that a state can be: no column is touched."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('reconciliation', '0012_parts_of_runs'),
    ]

    operations = [
        migrations.AlterField(
            model_name='bulkitem',
            name='state',
            field=models.CharField(choices=[('planned', 'Planned'), ('refused', 'Refused'), ('done', 'Done'), ('asked', 'Asked'), ('failed', 'Failed')], default='planned', max_length=8),
        ),
    ]
