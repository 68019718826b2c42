"""Columns with a constant default: PostgreSQL changes its catalogue only, and rewrites no row."""

from django.db import migrations, models
from django.db.models.functions import Now


class Migration(migrations.Migration):
    dependencies = [("durability", "0002_permissions_and_rare_rows")]

    operations = [
        migrations.CreateModel(
            name="Subscription",
            fields=[
                ("handler", models.CharField(max_length=100, primary_key=True, serialize=False)),
                ("since_message", models.BigIntegerField()),
                ("checked_to", models.BigIntegerField()),
                ("created_at", models.DateTimeField(db_default=Now())),
            ],
        ),
        migrations.AlterModelOptions(
            name="sagarun",
            options={
                "permissions": [
                    ("retry_sagarun", "Can retry sagas"),
                    ("decide_sagarun", "Can skip steps of sagas and turn sagas back"),
                ]
            },
        ),
        # Work that is open at this moment stands in the lane `own`; it is done there, or handed on.
        migrations.AddField("delivery", "outside", models.BooleanField(db_default=False)),
        migrations.AddField("sagarun", "outside", models.BooleanField(db_default=False)),
        migrations.AddField("sagarun", "deaths", models.PositiveIntegerField(db_default=0)),
    ]
