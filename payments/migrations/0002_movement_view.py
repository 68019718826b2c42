"""The view that reconciliation reads: one row for each movement that the provider should know too."""

from django.db import migrations

VIEW = """
CREATE VIEW payments_movement AS
SELECT 'charge' AS kind, p.id, p.merchant_id, p.id AS payment_id, p.reference,
       p.charge_reference AS source, p.provider_reference AS intent,
       p.captured_minor + p.corrected_minor AS amount_minor, p.currency, p.status,
       p.status = 'succeeded' AND p.captured_minor + p.corrected_minor <> 0 AS booked,
       coalesce(p.captured_at, p.first_sent_at, p.created_at) AS occurred_at,
       p.captured_at AS booked_at, p.amount_minor AS expected_minor
FROM payments_payment p
WHERE p.provider_reference IS NOT NULL
UNION ALL
SELECT 'refund', r.id, r.merchant_id, r.payment_id, p.reference,
       r.provider_reference, p.provider_reference,
       r.amount_minor + r.corrected_minor, r.currency, r.status,
       r.status = 'succeeded' AND r.amount_minor + r.corrected_minor <> 0,
       coalesce(r.provider_created_at, r.first_sent_at, r.created_at),
       r.provider_created_at, r.amount_minor
FROM payments_refund r JOIN payments_payment p ON p.id = r.payment_id
WHERE r.provider_reference IS NOT NULL
"""


class Migration(migrations.Migration):
    dependencies = [("payments", "0001_payments_created")]

    operations = [migrations.RunSQL(VIEW, "DROP VIEW payments_movement")]
