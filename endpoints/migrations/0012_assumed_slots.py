"""Assumed limits: a nullable column without a default, as the ones before. For endpoints that exist, it stays null."""

from importlib import import_module

import django.core.validators
from django.db import migrations, models

# Our triggers name this column, so that it cannot be dropped before them. Each start creates missing triggers.
drop_triggers = import_module('endpoints.migrations.0006_change_log').drop_triggers


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0011_model_features'),
    ]

    operations = [
        migrations.AddField(
            model_name='endpointoptions',
            name='assumed_slots',
            field=models.IntegerField(blank=True, editable=False, null=True, verbose_name='assumed requests at a time'),
        ),
        # Texts of forms only: the database is not changed.
        migrations.AlterField(
            model_name='endpoint',
            name='inference_timeout_secs',
            field=models.IntegerField(db_default=120, default=120, help_text='Time until a stream begins, between two of its events, and for the whole of any other response. If this is 120, the default, any other response may take ROUTERDASH_PLAIN_TIMEOUT_SECS (600 s).', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(86400)], verbose_name='inference timeout (s)'),
        ),
        migrations.AlterField(
            model_name='endpointoptions',
            name='max_concurrency',
            field=models.IntegerField(blank=True, help_text='Further requests wait in the queue. Leave this empty to use the number of slots that the server reports, else the number that is assumed for it, else no limit. A number here ends the assumption.', null=True, validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(10000)], verbose_name='requests at a time'),
        ),
        migrations.RunPython(migrations.RunPython.noop, drop_triggers),
    ]
