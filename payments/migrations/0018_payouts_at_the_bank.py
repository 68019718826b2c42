"""The banks' own id of a payout, and what reconciliation reads to follow money from a booking to our bank.

A column with a constant default: no table is rewritten or locked for longer than a moment. Views touch no table.
"""

from django.db import migrations, models

# Each sum is a look-up of its own, made for the payouts that a query takes and no others.
VIEWS = """
CREATE VIEW payments_payout_at_bank AS
SELECT o.id, o.provider_reference AS source, o.status, o.amount_minor, o.currency, o.arrives_on, o.trace_id, o.automatic,
       o.provider_created_at AS made_at, (
    SELECT coalesce(sum(p.amount_minor), 0)::bigint FROM payments_journalentry e
    JOIN payments_posting p ON p.entry_id = e.id
    JOIN payments_account a ON a.id = p.account_id AND a.kind = 'bank'
    WHERE e.subject = payments_number('pot', o.id)
) AS booked_minor
FROM payments_payout o;

CREATE VIEW payments_paid_out AS
SELECT t.id AS transaction, o.id AS payout_id, o.provider_reference AS payout, t.reporting_category, t.source,
       t.amount_minor, t.fee_minor, t.net_minor, t.currency, t.booked_at
FROM payments_payouttransaction t JOIN payments_payout o ON o.id = t.payout_id
WHERE t.source <> o.provider_reference;
"""
UNDO = """
DROP VIEW payments_paid_out;
DROP VIEW payments_payout_at_bank;
"""


class Migration(migrations.Migration):
    dependencies = [("payments", "0017_function_of_checkout")]

    operations = [
        migrations.AddField(
            model_name="payout",
            name="trace_id",
            field=models.CharField(blank=True, db_default="", default="", max_length=255),
        ),
        migrations.RunSQL(VIEWS, UNDO),
    ]
