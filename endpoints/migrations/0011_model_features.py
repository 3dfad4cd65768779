"""Features that servers report of their models: a nullable column without a default, as the ones before."""

from importlib import import_module

from django.db import migrations, models

# Our triggers name this column, so that it cannot be dropped before them. Each start creates missing triggers.
drop_triggers = import_module('endpoints.migrations.0006_change_log').drop_triggers


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0010_model_limits'),
    ]

    operations = [
        migrations.AddField(
            model_name='endpointmodel',
            name='features',
            field=models.JSONField(null=True),
        ),
        migrations.RunPython(migrations.RunPython.noop, drop_triggers),
    ]
