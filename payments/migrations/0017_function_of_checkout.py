"""A payment's intent, written by one call: by checkout beside the order, and by every later attempt.

The function takes one JSON document, as `payments.services.plan_payment` writes it. To change it, a new migration replaces
it whole.
"""

from django.db import migrations

BEGIN_PAYMENT = """
CREATE FUNCTION payments_begin_payment(payment jsonb) RETURNS boolean LANGUAGE plpgsql AS $$
-- False, and nothing written, while another attempt for the reference is live.
BEGIN
    INSERT INTO payments_payment (
        id, merchant_id, reference, customer, status, amount_minor, currency, credit_minor, method, payment_method, confirm,
        captured_minor, corrected_minor, settling, refunds_committed_minor, refunded_minor, refunds_excess_minor,
        refunds_owed_minor, disputed_lost_minor, failure_code, failure_decline_code, failure_message, checks, created_at
    )
    SELECT begun.id, begun.merchant_id, begun.reference, begun.customer, 'pending', begun.amount_minor, begun.currency,
           begun.credit_minor, begun.method, begun.payment_method, begun.confirm,
           0, 0, false, 0, 0, 0, 0, 0, '', '', '', 0, begun.created_at
    FROM jsonb_to_record(payment) AS begun (id uuid, merchant_id uuid, reference text, customer text, amount_minor bigint,
                                            currency text, credit_minor bigint, method text, payment_method text,
                                            confirm boolean, created_at timestamptz)
    ON CONFLICT DO NOTHING;
    RETURN FOUND;
END $$
"""


class Migration(migrations.Migration):
    dependencies = [("payments", "0016_books_to_compare")]

    operations = [migrations.RunSQL(BEGIN_PAYMENT, "DROP FUNCTION payments_begin_payment")]
