from django.db import migrations, models


class Migration(migrations.Migration):
    """A column with a constant default: PostgreSQL notes it in its catalogue and rewrites no row."""

    dependencies = [("catalog", "0002_loyalty_rate")]

    operations = [
        migrations.AddField(
            model_name="product",
            name="version",
            field=models.BigIntegerField(db_default=0, default=0, editable=False),
        ),
    ]
