"""What of a window a statement file holds: all but payouts, payouts alone, one currency. Columns with a default lock no table for long."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('reconciliation', '0017_ignoring_is_approved'),
    ]

    operations = [
        migrations.AddField(
            model_name='providerread',
            name='currency',
            field=models.CharField(blank=True, db_default='', default='', max_length=3),
        ),
        migrations.AddField(
            model_name='providerread',
            name='part',
            field=models.CharField(blank=True, choices=[('activity', 'Activity'), ('payouts', 'Payouts')], db_default='', default='', max_length=8),
        ),
        migrations.AlterField(
            model_name='statementfile',
            name='layout',
            field=models.CharField(blank=True, choices=[('stripe', 'Stripe'), ('stripe_payouts', 'Stripe payouts'), ('everycent', 'Everycent'), ('camt053', 'Camt053'), ('mt940', 'Mt940'), ('bank_csv', 'Bank csv')], max_length=16),
        ),
    ]
