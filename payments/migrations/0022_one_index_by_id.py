"""Takes away what Django adds to a text key for LIKE: in our locale (C.UTF-8, docker-compose.yml) the key's own index serves that
as well, and each webhook and each row of a payout was written into both. CONCURRENTLY, so in no transaction.

And tells PostgreSQL that few entries are corrections: it read the whole ledger to find those of a day.
"""

from django.db import migrations

CORRECTIONS = """
CREATE OR REPLACE VIEW payments_clearing_correction AS
SELECT e.key, e.currency, p.amount_minor
FROM payments_journalentry e
JOIN payments_journalentry c ON c.corrects_id = e.id AND c.corrects_id IS NOT NULL
JOIN payments_posting p ON p.entry_id = c.id
JOIN payments_account a ON a.id = p.account_id AND a.kind = 'provider_clearing';
"""


def without(table: str, index: str) -> migrations.RunSQL:
    return migrations.RunSQL(
        f"DROP INDEX CONCURRENTLY IF EXISTS {index}",
        f"CREATE INDEX CONCURRENTLY {index} ON {table} (id varchar_pattern_ops)",
    )


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("payments", "0021_views_for_large_days")]

    operations = [
        without("payments_inboxevent", "payments_inboxevent_id_f26949f1_like"),
        without("payments_payouttransaction", "payments_payouttransaction_id_12f88ed2_like"),
        migrations.RunSQL(CORRECTIONS, migrations.RunSQL.noop),  # the same rows
    ]
