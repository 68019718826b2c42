from django.contrib.postgres.operations import ValidateConstraint
from django.db import migrations


class Migration(migrations.Migration):
    """Reads all payments once, beside those who read and write them."""

    dependencies = [
        ("payments", "0004_payment_disputed"),
    ]

    operations = [
        ValidateConstraint(model_name="payment", name="payment_lost_not_negative"),
    ]
