import django.db.models.deletion
from django.contrib.postgres.operations import AddIndexConcurrently, ValidateConstraint
from django.db import connection, migrations, models, transaction

BATCH = 10_000  # rows a transaction: a fraction of a second, and vacuum keeps up


def date_old_postings(apps, schema_editor):
    """Postings that were written before they bore their entry's moment, oldest first.

    They may not be changed: the trigger that says so is asked to look away, for these statements alone.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(max(id), 0) FROM payments_posting")
        (last,) = cursor.fetchone()
        for first in range(0, last + 1, BATCH):
            with transaction.atomic():
                cursor.execute(
                    """
                    SELECT set_config('pgtrigger.ignore',
                        '{payments_posting:pgtrigger_append_only_6ff2e,pgtrigger_append_only_6ff2e}', true)
                    """
                )
                cursor.execute(
                    """
                    UPDATE payments_posting p SET posted_at = e.created_at FROM payments_journalentry e
                    WHERE e.id = p.entry_id AND p.posted_at <> e.created_at AND p.id >= %s AND p.id < %s
                    """,
                    [first, first + BATCH],
                )


class Migration(migrations.Migration):
    """Old postings get their entry's moment in small transactions; indexes are built beside those who read and write.

    Run it before the workers of this release start: they cut the books by these moments.
    """

    atomic = False

    dependencies = [
        ("payments", "0009_books"),
    ]

    operations = [
        migrations.RunPython(date_old_postings, migrations.RunPython.noop),
        ValidateConstraint("journalentry", "journal_entry_has_two_lines_at_least"),
        ValidateConstraint("journalentry", "journal_entry_correction_names_the_old_one"),
        ValidateConstraint("journalentry", "journal_entry_corrects_another"),
        AddIndexConcurrently(
            "posting",
            models.Index(fields=["account", "posted_at", "id"], include=["amount_minor"], name="posting_of_account"),
        ),
        AddIndexConcurrently("posting", models.Index(fields=["posted_at"], name="posting_by_time")),
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(
                    "CREATE UNIQUE INDEX CONCURRENTLY journal_entry_reversed_once"
                    " ON payments_journalentry (corrects_id) WHERE kind = 'reversal'",
                    "DROP INDEX CONCURRENTLY journal_entry_reversed_once",
                )
            ],
            state_operations=[
                migrations.AddConstraint(
                    model_name="journalentry",
                    constraint=models.UniqueConstraint(
                        fields=["corrects"], condition=models.Q(kind="reversal"), name="journal_entry_reversed_once"
                    ),
                )
            ],
        ),
        # The new index begins with the account, too.
        migrations.AlterField(
            model_name="posting",
            name="account",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="payments.account",
            ),
        ),
    ]
