"""API keys that may use external endpoints. Nullable and without a default: SQLite adds it without rebuilding the table,
and llmlb still writes its rows, whose keys may not.
"""

from importlib import import_module

from django.db import migrations, models

# Our triggers name this column, so that it cannot be dropped before them. Each start creates missing triggers.
drop_triggers = import_module('endpoints.migrations.0006_change_log').drop_triggers


class Migration(migrations.Migration):

    dependencies = [
        ('access', '0003_view_bodies'),
        ('endpoints', '0006_change_log'),
    ]

    operations = [
        migrations.AddField(
            model_name='apikey',
            name='external',
            field=models.BooleanField(null=True, verbose_name='may use external endpoints'),
        ),
        migrations.RunPython(migrations.RunPython.noop, drop_triggers),
    ]
