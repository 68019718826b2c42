"""Refunds and disputes as movements, of which PostgreSQL reads the payment only where something of it is asked for.

Each has a payment, so the outer join finds what the inner one found; but only an outer one can be left out. Views only: no table is
touched or locked.
"""

from django.db import migrations

VIEWS = """
CREATE OR REPLACE VIEW payments_movement_refund AS
SELECT 'refund' AS kind, r.id, r.merchant_id, r.payment_id, p.reference,
       r.provider_reference AS source, p.provider_reference AS intent,
       r.amount_minor + r.corrected_minor AS amount_minor, r.currency, r.status,
       r.status = 'succeeded' AND r.amount_minor + r.corrected_minor <> 0 AS booked,
       coalesce(r.provider_created_at, r.first_sent_at, r.created_at) AS occurred_at,
       r.provider_created_at AS booked_at, r.amount_minor AS expected_minor
FROM payments_refund r LEFT JOIN payments_payment p ON p.id = r.payment_id
WHERE r.provider_reference IS NOT NULL;
CREATE OR REPLACE VIEW payments_movement_dispute AS
SELECT 'dispute' AS kind, d.id, d.merchant_id, d.payment_id, p.reference,
       d.provider_reference AS source, p.provider_reference AS intent,
       d.withdrawn_minor AS amount_minor, d.currency, d.status, d.withdrawn_minor <> 0 AS booked,
       d.opened_at AS occurred_at, d.opened_at AS booked_at, d.amount_minor AS expected_minor
FROM payments_dispute d LEFT JOIN payments_payment p ON p.id = d.payment_id;
"""


class Migration(migrations.Migration):
    dependencies = [("payments", "0022_one_index_by_id")]

    operations = [migrations.RunSQL(VIEWS, migrations.RunSQL.noop)]
