"""When a payment was last sent, so that a look-up need not read all that the provider made since. Null: no row is rewritten."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("payments", "0014_store_credit_validated")]

    operations = [migrations.AddField("payment", "last_sent_at", models.DateTimeField(null=True))]
