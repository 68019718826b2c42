from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models


class Migration(migrations.Migration):
    """What a dispute does to its payment.

    Payments is a big table: constant defaults rewrite no rows, and the check binds new rows at once. That the old rows
    obey it is proved by the next migration, which locks nobody out.
    """

    dependencies = [
        ("payments", "0003_permissions_and_rare_rows"),
    ]

    operations = [
        migrations.AddField(
            model_name="payment",
            name="disputed_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="payment",
            name="disputed_lost_minor",
            field=models.BigIntegerField(default=0),
        ),
        AddConstraintNotValid(
            model_name="payment",
            constraint=models.CheckConstraint(
                condition=models.Q(("disputed_lost_minor__gte", 0)), name="payment_lost_not_negative"
            ),
        ),
    ]
