from django.contrib.postgres.operations import AddIndexConcurrently, ValidateConstraint
from django.db import migrations, models


class Migration(migrations.Migration):
    """Reads payments, refunds and accounts once, beside those who read and write them; each step is its own transaction."""

    atomic = False

    dependencies = [
        ("payments", "0013_store_credit"),
    ]

    operations = [
        ValidateConstraint(model_name="account", name="account_only_customers_keep_a_balance"),
        ValidateConstraint(model_name="account", name="account_points_are_no_money"),
        ValidateConstraint(model_name="payment", name="payment_amount_positive"),
        ValidateConstraint(model_name="payment", name="payment_settles_with_its_credit"),
        ValidateConstraint(model_name="payment", name="payment_refunds_within_collected"),
        ValidateConstraint(model_name="payment", name="payment_succeeded_has_capture"),
        ValidateConstraint(model_name="refund", name="refund_amount_positive"),
        ValidateConstraint(model_name="refund", name="refund_above_the_limit_is_approved"),
        AddIndexConcurrently(
            model_name="account",
            index=models.Index(
                condition=models.Q(("customer", ""), _negated=True), fields=["customer"], name="account_by_customer"
            ),
        ),
    ]
