"""Work at own hardware by batch. The rows of hardware_work are read as long as they are kept."""

import endpoints.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('metrics', '0021_hardware'),
    ]

    operations = [
        migrations.CreateModel(
            name='HardwareBatch',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('hour', models.BigIntegerField()),
                ('endpoint_id', endpoints.fields.TextUUIDField()),
                ('attempts', models.IntegerField()),
                ('work', models.BinaryField()),
            ],
            options={
                'db_table': 'hardware_batches',
                'indexes': [models.Index(fields=['hour', 'endpoint_id'], name='hardware_batches_hour')],
            },
        ),
    ]
