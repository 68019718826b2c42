"""Takes away what Django adds to a text key for LIKE: in our locale (C.UTF-8, docker-compose.yml) the key's own index serves that
as well, and each row of a statement and each match was written into both. CONCURRENTLY, so in no transaction.
"""

from django.db import migrations


def without(table: str, column: str, index: str) -> migrations.RunSQL:
    return migrations.RunSQL(
        f"DROP INDEX CONCURRENTLY IF EXISTS {index}",
        f"CREATE INDEX CONCURRENTLY {index} ON {table} ({column} varchar_pattern_ops)",
    )


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("reconciliation", "0013_bulk_item_asked")]

    operations = [
        without("reconciliation_match", "object", "reconciliation_match_object_2c8f859a_like"),
        without("reconciliation_providertransaction", "id", "reconciliation_providertransaction_id_875f6abc_like"),
    ]
