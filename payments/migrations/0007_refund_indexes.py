from django.contrib.postgres.operations import AddIndexConcurrently, ValidateConstraint
from django.db import migrations, models
from django.db.models import Q

_ONCE = """
CREATE UNIQUE INDEX CONCURRENTLY refund_made_again_once ON payments_refund (again_of_id)
WHERE again_of_id IS NOT NULL AND status IN ('requested', 'awaiting_approval', 'processing')
"""


class Migration(migrations.Migration):
    """Reads all payments and refunds, beside those who read and write them: nobody waits for it."""

    atomic = False
    dependencies = [
        ("payments", "0006_refunds_approved_and_owed"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="payment",
            index=models.Index(condition=Q(refunds_owed_minor__gt=0), fields=["id"], name="payment_owes_a_refund"),
        ),
        AddIndexConcurrently(
            model_name="refund",
            index=models.Index(condition=~Q(status="succeeded"), fields=["status", "id"], name="refund_not_succeeded"),
        ),
        AddIndexConcurrently(
            model_name="refund",
            index=models.Index(condition=Q(again_of__isnull=False), fields=["again_of"], name="refund_made_again"),
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(_ONCE, "DROP INDEX CONCURRENTLY IF EXISTS refund_made_again_once"),
            ],
            state_operations=[
                migrations.AddConstraint(
                    model_name="refund",
                    constraint=models.UniqueConstraint(
                        fields=("again_of",),
                        condition=Q(again_of__isnull=False, status__in=("requested", "awaiting_approval", "processing")),
                        name="refund_made_again_once",
                    ),
                ),
            ],
        ),
        ValidateConstraint(model_name="payment", name="payment_owes_what_is_not_refunded"),
        ValidateConstraint(model_name="payment", name="payment_refund_excess_not_negative"),
        ValidateConstraint(model_name="refund", name="refund_approver_is_a_second_person"),
        ValidateConstraint(model_name="refund", name="refund_approval_is_dated"),
        ValidateConstraint(model_name="refund", name="refund_above_the_limit_is_approved"),
    ]
