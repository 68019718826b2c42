"""What reconciliation reads, as views: disputes and payouts beside charges and refunds, and the ledger by its causes.

Views and functions only: no table is touched or locked.
"""

from django.db import migrations

# Columns as in 0002, two kinds more. A query that names a kind reads that branch alone.
MOVEMENTS = """
DROP VIEW payments_movement;
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
UNION ALL
SELECT 'dispute', d.id, d.merchant_id, d.payment_id, p.reference, d.provider_reference, p.provider_reference,
       d.withdrawn_minor, d.currency, d.status, d.withdrawn_minor <> 0, d.opened_at, d.opened_at, d.amount_minor
FROM payments_dispute d JOIN payments_payment p ON p.id = d.payment_id
UNION ALL
SELECT 'payout', o.id, NULL::uuid, NULL::uuid, '', o.provider_reference, '', o.amount_minor, o.currency, o.status,
       o.status = 'paid', o.provider_created_at, o.provider_created_at, o.amount_minor
FROM payments_payout o;
"""

# foundation.ids in SQL: Crockford's base32 of the UUID's 128 bits, two zero bits in front, there and back.
NUMBERS = """
CREATE FUNCTION payments_number(prefix text, id uuid) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT prefix || '_' || string_agg(
        substr('0123456789abcdefghjkmnpqrstvwxyz', substring(b.bits FROM i * 5 + 1 FOR 5)::bit(5)::int + 1, 1), ''
        ORDER BY i)
    FROM (SELECT B'00' || ('x' || replace(id::text, '-', ''))::bit(128) AS bits) b, generate_series(0, 25) i
$$;
CREATE FUNCTION payments_id_of(number text) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT string_agg(lpad(to_hex(substr(b.bits, 3 + 32 * part, 32)::bit(32)::bigint), 8, '0'), '' ORDER BY part)::uuid
    FROM (
        SELECT string_agg(
            (strpos('0123456789abcdefghjkmnpqrstvwxyz', substr(split_part(number, '_', 2), i, 1)) - 1)::bit(5)::text, ''
            ORDER BY i) AS bits
        FROM generate_series(1, 26) i
    ) b, generate_series(0, 3) part
$$;
"""

# Each sum is a look-up of its own, made for the rows that a query takes and no others.
BOOKINGS = """
CREATE VIEW payments_booking AS
SELECT e.id, e.key, e.kind, e.subject, e.currency, (
    SELECT coalesce(sum(p.amount_minor), 0)::bigint FROM payments_posting p
    JOIN payments_account a ON a.id = p.account_id AND a.kind = 'provider_clearing'
    WHERE p.entry_id = e.id
) + (
    SELECT coalesce(sum(p.amount_minor), 0)::bigint FROM payments_journalentry c
    JOIN payments_posting p ON p.entry_id = c.id
    JOIN payments_account a ON a.id = p.account_id AND a.kind = 'provider_clearing'
    WHERE c.corrects_id = e.id
) AS clearing_minor
FROM payments_journalentry e;

CREATE VIEW payments_posted AS
SELECT p.account_id, a.kind AS account_kind, a.currency, p.posted_at, p.amount_minor, e.key, e.kind, e.subject,
       CASE WHEN e.subject ~ '^(pay|ref|dsp|pot)_[0-9a-z]{26}$' THEN payments_id_of(e.subject) END AS object_id
FROM payments_posting p
JOIN payments_journalentry e ON e.id = p.entry_id
JOIN payments_account a ON a.id = p.account_id;

CREATE VIEW payments_payout_collected AS
SELECT o.provider_reference AS source, (
    SELECT coalesce(sum(t.net_minor), 0)::bigint FROM payments_payouttransaction t
    WHERE t.payout_id = o.id AND t.source <> o.provider_reference
) AS collected_minor, (
    SELECT count(*) FROM payments_payouttransaction t WHERE t.payout_id = o.id AND t.source <> o.provider_reference
) AS rows
FROM payments_payout o WHERE o.listed_at IS NOT NULL;
"""
UNDO = """
DROP VIEW payments_payout_collected;
DROP VIEW payments_posted;
DROP VIEW payments_booking;
DROP FUNCTION payments_id_of(text);
DROP FUNCTION payments_number(text, uuid);
"""


class Migration(migrations.Migration):
    dependencies = [("payments", "0015_payment_last_sent_at")]

    operations = [
        migrations.RunSQL(MOVEMENTS, migrations.RunSQL.noop),  # two kinds more do not disturb an older release
        migrations.RunSQL(NUMBERS + BOOKINGS, UNDO),
    ]
