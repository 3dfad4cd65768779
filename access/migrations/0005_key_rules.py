"""Restrictions of API keys, and the key that each one replaced.

The columns are nullable and without a default: SQLite adds them without rebuilding the table, and llmlb still writes its
rows. The index has only keys that replaced another one.
"""

from importlib import import_module

from django.db import migrations, models

import endpoints.fields

# Our triggers name these columns, so that they cannot be dropped before them. Each start creates missing triggers.
drop_triggers = import_module('endpoints.migrations.0006_change_log').drop_triggers


class Migration(migrations.Migration):

    dependencies = [
        ('access', '0004_external'),
        ('endpoints', '0006_change_log'),
    ]

    operations = [
        migrations.AddField(
            model_name='apikey',
            name='enabled',
            field=models.BooleanField(null=True, verbose_name='enabled'),
        ),
        migrations.AddField(
            model_name='apikey',
            name='rules',
            field=models.JSONField(blank=True, null=True, verbose_name='restrictions'),
        ),
        migrations.AddField(
            model_name='apikey',
            name='bulk',
            field=models.BooleanField(null=True, verbose_name='bulk requests'),
        ),
        migrations.AddField(
            model_name='apikey',
            name='replaced_hash',
            field=endpoints.fields.LineField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name='apikey',
            name='replaced_until',
            field=endpoints.fields.ExpiryField(editable=False, null=True, verbose_name='replaced key expires'),
        ),
        migrations.AddIndex(
            model_name='apikey',
            index=models.Index(condition=models.Q(('replaced_hash__isnull', False)), fields=['replaced_hash'], name='api_keys_replaced'),
        ),
        migrations.RunPython(migrations.RunPython.noop, drop_triggers),
    ]
