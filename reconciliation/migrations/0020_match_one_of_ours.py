"""One of ours is matched with one of the provider's. Built CONCURRENTLY, so in no transaction: runs go on meanwhile.

Where two matches name one of ours, the one by id stays, else the one that was made first. The others are forgotten: a match is what the
last look saw, and their days are noted, so that the hourly job looks at them again and tells what they are. Until this release has
replaced the last one everywhere, a run that would match one of ours twice fails, and is made anew.
"""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models

TWICE = """
WITH ranked AS (
    SELECT object, row_number() OVER (PARTITION BY ours_id ORDER BY rule <> 'id', matched_at, object) AS place
    FROM reconciliation_match WHERE rule <> 'intent'
), forgotten AS (
    DELETE FROM reconciliation_match m USING ranked r WHERE r.object = m.object AND r.place > 1 RETURNING m.theirs_on
)
INSERT INTO reconciliation_changedday (day) SELECT DISTINCT theirs_on FROM forgotten
"""
INDEX = "CREATE UNIQUE INDEX CONCURRENTLY match_one_of_ours ON reconciliation_match (ours_id) WHERE NOT (rule = 'intent')"
# One that a release before wrote meanwhile leaves an index that is not valid: the migration is made again.
NO_INDEX = "DROP INDEX CONCURRENTLY IF EXISTS match_one_of_ours"


class Migration(migrations.Migration):
    atomic = False

    dependencies = [("reconciliation", "0019_lines_of_bank_statements")]

    operations = [
        migrations.RunSQL(NO_INDEX, migrations.RunSQL.noop),
        migrations.RunSQL(TWICE, migrations.RunSQL.noop),
        migrations.RunSQL(
            INDEX,
            NO_INDEX,
            state_operations=[
                migrations.AddConstraint(
                    "match",
                    models.UniqueConstraint(
                        fields=["ours_id"], name="match_one_of_ours", condition=~models.Q(rule="intent")
                    ),
                )
            ],
        ),
        AddIndexConcurrently(
            "match",
            models.Index(fields=["ours_source"], name="match_under_another_id", condition=~models.Q(ours_source="")),
        ),
    ]
