"""What corrections moved on the clearing account: those of corrections too, as far as they go, and each in its own currency. A fee that
was posted in another currency than the provider's is taken back in that one, and posted in the other.

Views only: no table is touched or locked.
"""

from django.db import migrations

# From the corrections, which are few, up to what they correct: from the entries down it would be a look for each of a day's.
VIEWS = """
CREATE OR REPLACE VIEW payments_clearing_correction AS
WITH RECURSIVE correction AS (
    SELECT c.id, c.corrects_id AS of_id FROM payments_journalentry c WHERE c.corrects_id IS NOT NULL
    UNION ALL
    SELECT k.id, c.corrects_id FROM correction k
    JOIN payments_journalentry c ON c.id = k.of_id AND c.corrects_id IS NOT NULL
)
SELECT e.key, a.currency, p.amount_minor
FROM correction k
JOIN payments_journalentry e ON e.id = k.of_id
JOIN payments_posting p ON p.entry_id = k.id
JOIN payments_account a ON a.id = p.account_id AND a.kind = 'provider_clearing';

CREATE OR REPLACE VIEW payments_booking AS
SELECT e.id, e.key, e.kind, e.subject, e.currency, (
    WITH RECURSIVE part AS (
        SELECT e.id
        UNION ALL
        SELECT c.id FROM part JOIN payments_journalentry c ON c.corrects_id = part.id
    )
    SELECT coalesce(sum(p.amount_minor), 0)::bigint FROM part
    JOIN payments_posting p ON p.entry_id = part.id
    JOIN payments_account a ON a.id = p.account_id AND a.kind = 'provider_clearing' AND a.currency = e.currency
) AS clearing_minor
FROM payments_journalentry e;
"""


class Migration(migrations.Migration):
    dependencies = [("payments", "0023_refunds_by_themselves")]

    operations = [migrations.RunSQL(VIEWS, migrations.RunSQL.noop)]  # an older release reads the same columns
