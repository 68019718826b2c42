"""For whoever asks when no news came: the inbox by the provider's clock, and a view of it. The index is built
CONCURRENTLY, so in no transaction, and no webhook waits for it."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models

NEWS = """
CREATE OR REPLACE VIEW payments_news AS
SELECT provider_created_at AS told_at, object_id, intent_id FROM payments_inboxevent
"""


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("payments", "0019_books_sealed_through")]

    operations = [
        AddIndexConcurrently("inboxevent", models.Index(fields=["provider_created_at"], name="inbox_by_moment")),
        migrations.RunSQL(NEWS, "DROP VIEW IF EXISTS payments_news"),
    ]
