"""Tier and cost weight of an endpoint: nullable columns without a default in a table of ours."""

from importlib import import_module

import django.core.validators
from django.db import migrations, models

# Our triggers name these columns, so that they cannot be dropped before them. Each start creates missing triggers.
drop_triggers = import_module('endpoints.migrations.0006_change_log').drop_triggers


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0006_change_log'),
    ]

    operations = [
        migrations.AddField(
            model_name='endpointoptions',
            name='cost_weight',
            field=models.FloatField(blank=True, help_text='Adaptive routing multiplies the cost of a request by this. With 2, the endpoint is used as if it took twice as long, so it gets fewer requests; with 0.5 it gets more. If this is empty, the weight is 1.', null=True, validators=[django.core.validators.MinValueValidator(0.1), django.core.validators.MaxValueValidator(10)], verbose_name='cost weight'),
        ),
        migrations.AddField(
            model_name='endpointoptions',
            name='tier',
            field=models.IntegerField(blank=True, help_text='1 is the first, 9 the last. The endpoint gets requests only when all endpoints of better tiers are unavailable or full. If this is empty, the tier is 1.', null=True, validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(9)], verbose_name='tier'),
        ),
        migrations.RunPython(migrations.RunPython.noop, drop_triggers),
    ]
