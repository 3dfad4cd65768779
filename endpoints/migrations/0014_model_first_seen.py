"""When an endpoint first listed a model: a nullable column without a default, as the ones before."""

from django.db import migrations

import endpoints.fields


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0013_connection_settings'),
    ]

    operations = [
        migrations.AddField(
            model_name='endpointmodel',
            name='first_seen',
            field=endpoints.fields.IsoDateTimeField(null=True),
        ),
    ]
