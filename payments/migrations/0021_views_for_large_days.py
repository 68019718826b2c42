"""A view for each kind of movement, and the clearing account's lines by the key of their cause: what is joined as a whole.

In a join PostgreSQL can look up rows of a plain view one by one, or hash it as a whole, as the numbers of rows suggest. In a
union of all kinds, or in a column that is a query of its own, it cannot choose. Views only: no table is touched or locked.
"""

from django.db import migrations

# The union is what it was; its branches have names now.
KINDS = """
DROP VIEW payments_movement;
CREATE VIEW payments_movement_charge AS
SELECT 'charge' AS kind, p.id, p.merchant_id, p.id AS payment_id, p.reference,
       p.charge_reference AS source, p.provider_reference AS intent,
       p.captured_minor + p.corrected_minor AS amount_minor, p.currency, p.status,
       p.status = 'succeeded' AND p.captured_minor + p.corrected_minor <> 0 AS booked,
       coalesce(p.captured_at, p.first_sent_at, p.created_at) AS occurred_at,
       p.captured_at AS booked_at, p.amount_minor AS expected_minor
FROM payments_payment p
WHERE p.provider_reference IS NOT NULL;
CREATE VIEW payments_movement_refund AS
SELECT 'refund' AS kind, r.id, r.merchant_id, r.payment_id, p.reference,
       r.provider_reference AS source, p.provider_reference AS intent,
       r.amount_minor + r.corrected_minor AS amount_minor, r.currency, r.status,
       r.status = 'succeeded' AND r.amount_minor + r.corrected_minor <> 0 AS booked,
       coalesce(r.provider_created_at, r.first_sent_at, r.created_at) AS occurred_at,
       r.provider_created_at AS booked_at, r.amount_minor AS expected_minor
FROM payments_refund r JOIN payments_payment p ON p.id = r.payment_id
WHERE r.provider_reference IS NOT NULL;
CREATE VIEW payments_movement_dispute AS
SELECT 'dispute' AS kind, d.id, d.merchant_id, d.payment_id, p.reference,
       d.provider_reference AS source, p.provider_reference AS intent,
       d.withdrawn_minor AS amount_minor, d.currency, d.status, d.withdrawn_minor <> 0 AS booked,
       d.opened_at AS occurred_at, d.opened_at AS booked_at, d.amount_minor AS expected_minor
FROM payments_dispute d JOIN payments_payment p ON p.id = d.payment_id;
CREATE VIEW payments_movement_payout AS
SELECT 'payout' AS kind, o.id, NULL::uuid AS merchant_id, NULL::uuid AS payment_id, ''::varchar AS reference,
       o.provider_reference AS source, ''::varchar AS intent,
       o.amount_minor, o.currency, o.status, o.status = 'paid' AS booked,
       o.provider_created_at AS occurred_at, o.provider_created_at AS booked_at, o.amount_minor AS expected_minor
FROM payments_payout o;
CREATE VIEW payments_movement AS
SELECT * FROM payments_movement_charge
UNION ALL SELECT * FROM payments_movement_refund
UNION ALL SELECT * FROM payments_movement_dispute
UNION ALL SELECT * FROM payments_movement_payout;
"""
LINES = """
CREATE VIEW payments_clearing_line AS
SELECT e.key, e.currency, p.amount_minor
FROM payments_journalentry e
JOIN payments_posting p ON p.entry_id = e.id
JOIN payments_account a ON a.id = p.account_id AND a.kind = 'provider_clearing';
CREATE VIEW payments_clearing_correction AS
SELECT e.key, e.currency, p.amount_minor
FROM payments_journalentry e
JOIN payments_journalentry c ON c.corrects_id = e.id
JOIN payments_posting p ON p.entry_id = c.id
JOIN payments_account a ON a.id = p.account_id AND a.kind = 'provider_clearing';
"""
UNDO = """
DROP VIEW payments_clearing_correction;
DROP VIEW payments_clearing_line;
"""


class Migration(migrations.Migration):
    dependencies = [("payments", "0020_news_by_moment")]

    operations = [
        migrations.RunSQL(KINDS, migrations.RunSQL.noop),  # the names of the branches do not disturb an older release
        migrations.RunSQL(LINES, UNDO),
    ]
