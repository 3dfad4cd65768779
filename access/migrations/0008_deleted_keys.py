"""Deleted API keys and the users that they belonged to. Nothing refers to the tables of keys and users."""

from importlib import import_module

from django.db import migrations, models

import endpoints.fields

# Our triggers name this table, so that it cannot be dropped before them. Each start creates missing triggers.
drop_triggers = import_module('endpoints.migrations.0006_change_log').drop_triggers


class Migration(migrations.Migration):

    dependencies = [
        ('access', '0007_order_of_keys'),
        ('endpoints', '0006_change_log'),
    ]

    operations = [
        migrations.CreateModel(
            name='DeletedKey',
            fields=[
                ('id', endpoints.fields.TextUUIDField(editable=False, primary_key=True, serialize=False)),
                ('user_id', endpoints.fields.TextUUIDField(verbose_name='user')),
            ],
            options={
                'verbose_name': 'deleted API key',
                'verbose_name_plural': 'deleted API keys',
                'db_table': 'deleted_keys',
                'indexes': [models.Index(fields=['user_id'], name='deleted_keys_user')],
            },
        ),
        migrations.RunPython(migrations.RunPython.noop, drop_triggers),
    ]
