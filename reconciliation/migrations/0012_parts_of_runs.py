"""New tables only: nothing that is there is locked."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('reconciliation', '0011_link_end_has_a_reason'),
    ]

    operations = [
        migrations.CreateModel(
            name='RunPart',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('run_id', models.UUIDField()),
                ('look_id', models.UUIDField()),
                ('part', models.PositiveSmallIntegerField()),
                ('sums', models.JSONField()),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('look_id', 'part'), name='run_part_once')],
            },
        ),
        migrations.CreateModel(
            name='RunPartLeft',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('run_id', models.UUIDField()),
                ('look_id', models.UUIDField()),
                ('part', models.PositiveSmallIntegerField()),
                ('kind', models.CharField(max_length=16)),
                ('source', models.CharField(max_length=255)),
            ],
            options={
                'indexes': [models.Index(fields=['look_id', 'part'], name='run_part_left_by_part')],
            },
        ),
    ]
