"""Limits of models that clouds list, and what these lack: nullable columns without a default, so that SQLite does not
rebuild the table, and llmlb still writes its rows.
"""

from importlib import import_module

from django.db import migrations, models

# Our triggers name these columns, so that they cannot be dropped before them. Each start creates missing triggers.
drop_triggers = import_module('endpoints.migrations.0006_change_log').drop_triggers


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0009_clouds'),
    ]

    operations = [
        migrations.AddField(
            model_name='endpointmodel',
            name='lacks',
            field=models.JSONField(null=True),
        ),
        migrations.AddField(
            model_name='endpointmodel',
            name='max_output_tokens',
            field=models.IntegerField(null=True),
        ),
        migrations.RunPython(migrations.RunPython.noop, drop_triggers),
    ]
