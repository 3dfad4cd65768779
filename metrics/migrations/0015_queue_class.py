"""The queue class of a request. The column is nullable and has no default, so that no row is rewritten."""

import endpoints.fields
from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('metrics', '0014_past_speeds'),
    ]

    operations = [
        migrations.AddField(
            model_name='requesthistory',
            name='queue_class',
            field=endpoints.fields.LineField(null=True, verbose_name='queue class'),
        ),
    ]
