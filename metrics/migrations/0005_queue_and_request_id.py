"""How long a request waited for a free slot, and the id that its client gave it."""

import endpoints.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('metrics', '0004_failed_requests'),
    ]

    operations = [
        migrations.AddField(
            model_name='requesthistory',
            name='queue_us',
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name='requesthistory',
            name='request_id',
            field=endpoints.fields.LineField(null=True, verbose_name='request id'),
        ),
    ]
