from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('catalog', '0001_catalog_created'),
    ]

    operations = [
        migrations.AddField(
            model_name='merchant',
            name='loyalty_rate_bp',
            field=models.PositiveIntegerField(db_default=0, default=0, verbose_name='loyalty points a major unit (basis points)'),
        ),
    ]
