"""The moment of the last cut, for triggers of apps that build on it: no entry bears an earlier one any more, whatever its
INSERT says; null before the first cut. A function alone: no table is touched.
"""

from django.db import migrations

SEALED_THROUGH = """
CREATE FUNCTION payments_sealed_through() RETURNS timestamptz
LANGUAGE sql STABLE AS $$ SELECT max(at) FROM payments_bookcut $$
"""


class Migration(migrations.Migration):
    dependencies = [("payments", "0018_payouts_at_the_bank")]

    operations = [migrations.RunSQL(SEALED_THROUGH, "DROP FUNCTION payments_sealed_through()")]
