from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    """What is open is checked again before what has ended: an index each, built beside those who read and write.

    Payments that ended before this release have no next check: they are not read again.
    """

    atomic = False

    dependencies = [
        ("payments", "0011_contradictions_and_tries"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="payment",
            index=models.Index(
                condition=models.Q(
                    ("next_check_at__isnull", False),
                    ("status__in", ("pending", "processing", "requires_action", "unknown")),
                ),
                fields=["next_check_at"],
                name="payment_to_recheck",
            ),
        ),
        AddIndexConcurrently(
            model_name="payment",
            index=models.Index(
                condition=models.Q(
                    ("next_check_at__isnull", False),
                    models.Q(("status__in", ("pending", "processing", "requires_action", "unknown")), _negated=True),
                ),
                fields=["next_check_at"],
                name="payment_to_reread",
            ),
        ),
        AddIndexConcurrently(
            model_name="payment",
            index=models.Index(
                condition=models.Q(("person_needed_at__isnull", False)), fields=["id"], name="payment_needs_a_person"
            ),
        ),
        AddIndexConcurrently(
            model_name="refund",
            index=models.Index(
                condition=models.Q(
                    ("next_check_at__isnull", False),
                    ("status__in", ("requested", "awaiting_approval", "processing", "pending", "requires_action")),
                ),
                fields=["next_check_at"],
                name="refund_to_recheck",
            ),
        ),
        AddIndexConcurrently(
            model_name="refund",
            index=models.Index(
                condition=models.Q(
                    ("next_check_at__isnull", False),
                    models.Q(
                        ("status__in", ("requested", "awaiting_approval", "processing", "pending", "requires_action")),
                        _negated=True,
                    ),
                ),
                fields=["next_check_at"],
                name="refund_to_reread",
            ),
        ),
        AddIndexConcurrently(
            model_name="refund",
            index=models.Index(
                condition=models.Q(("person_needed_at__isnull", False)), fields=["id"], name="refund_needs_a_person"
            ),
        ),
        RemoveIndexConcurrently(
            model_name="payment",
            name="payment_due_check",
        ),
        RemoveIndexConcurrently(
            model_name="refund",
            name="refund_due_check",
        ),
    ]
