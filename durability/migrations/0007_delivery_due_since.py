"""A delivery knows since when it waits. The default is computed once, so no row is rewritten: the lock is held for a moment."""

from django.db import migrations, models
from django.db.models.functions import Now


class Migration(migrations.Migration):
    dependencies = [("durability", "0006_one_writer_of_the_stream")]

    operations = [
        migrations.AddField("delivery", "due_since", models.DateTimeField(db_default=Now())),
    ]
