"""Links are made by people, one by one: the table is small, and its constraint is checked in an instant."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('reconciliation', '0010_matches_and_tolerances'),
    ]

    operations = [
        migrations.AddField(
            model_name='link',
            name='ended_why',
            field=models.TextField(blank=True),
        ),
        migrations.RunSQL(
            "UPDATE reconciliation_link SET ended_why = 'no reason was asked for' WHERE ended_at IS NOT NULL",
            migrations.RunSQL.noop,
        ),
        migrations.AddConstraint(
            model_name='link',
            constraint=models.CheckConstraint(condition=models.Q(('ended_at__isnull', True), models.Q(models.Q(('ended_by', ''), _negated=True), models.Q(('ended_why', ''), _negated=True)), _connector='OR'), name='link_end_has_a_reason'),
        ),
    ]
