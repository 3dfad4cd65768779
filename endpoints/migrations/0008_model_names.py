"""Tables of model names. Nothing in them refers to tables that llmlb writes."""

import uuid
from importlib import import_module

import django.core.validators
import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

import endpoints.fields
import endpoints.text

# Our triggers name these tables, so that they cannot be dropped before them. Each start creates missing triggers.
drop_triggers = import_module('endpoints.migrations.0006_change_log').drop_triggers


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0007_routing_options'),
    ]

    operations = [
        migrations.CreateModel(
            name='NamedModel',
            fields=[
                ('id', endpoints.fields.TextUUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('name', endpoints.fields.LineField(help_text='Clients request this name. One * stands for any characters. A name wins over a model of this id.', unique=True, verbose_name='name')),
                ('enabled', models.BooleanField(default=True, verbose_name='enabled')),
                ('echo_served', models.BooleanField(default=False, help_text='Responses contain the model that served them instead of the requested name.', verbose_name='name the served model')),
                ('external', models.BooleanField(default=False, help_text='Only requests with API keys that may use external endpoints reach those.', verbose_name='may use external endpoints')),
                ('same_vectors', models.BooleanField(default=False, help_text='Requests for embeddings may leave a step only if this is ticked.', verbose_name='models give equal vectors')),
                ('note', models.TextField(blank=True, default='', validators=[endpoints.text.validate_text], verbose_name='note')),
                ('defaults', models.JSONField(blank=True, default=dict, help_text='JSON object of parameters for requests that lack them, such as {"temperature": 0.2}.', verbose_name='default parameters')),
                ('overrides', models.JSONField(blank=True, default=dict, help_text='JSON object of parameters for all requests.', verbose_name='fixed parameters')),
                ('dropped', models.JSONField(blank=True, default=list, help_text='JSON list of names, such as ["logit_bias"].', verbose_name='removed parameters')),
                ('created_at', endpoints.fields.IsoDateTimeField(default=django.utils.timezone.now, editable=False, verbose_name='created')),
            ],
            options={
                'verbose_name': 'model name',
                'verbose_name_plural': 'model names',
                'db_table': 'model_names',
                'ordering': ['name'],
            },
        ),
        migrations.CreateModel(
            name='NameTarget',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('step', models.PositiveSmallIntegerField(default=1, validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(8)], verbose_name='step')),
                ('model', endpoints.fields.LineField(help_text='Id, alias or canonical name of a model, or another model name.', verbose_name='model')),
                ('endpoint_id', endpoints.fields.TextUUIDField(blank=True, null=True, verbose_name='endpoint')),
                ('tag', endpoints.fields.LineField(blank=True, default='', help_text='Only endpoints with this tag get requests.', verbose_name='tag')),
                ('weight', models.PositiveSmallIntegerField(default=1, help_text='Share of the requests among the targets of the step.', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(100)], verbose_name='weight')),
                ('named', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='targets', to='endpoints.namedmodel')),
            ],
            options={
                'verbose_name': 'target',
                'verbose_name_plural': 'targets',
                'db_table': 'model_name_targets',
                'ordering': ['step', 'id'],
            },
        ),
        migrations.CreateModel(
            name='NameStep',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('position', models.PositiveSmallIntegerField(validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(8)], verbose_name='step')),
                ('if_unavailable', models.BooleanField(default=True, help_text='No endpoint of the step can be asked now.', verbose_name='leave if unavailable')),
                ('if_full_secs', models.FloatField(blank=True, help_text='All endpoints of the step have been full for so many seconds. If this is empty, the request waits.', null=True, validators=[django.core.validators.MinValueValidator(0), django.core.validators.MaxValueValidator(600)], verbose_name='leave if full (s)')),
                ('if_failed', models.BooleanField(default=True, help_text='An attempt failed, and another endpoint may not.', verbose_name='leave after a failure')),
                ('if_too_long', models.BooleanField(default=True, help_text='The prompt is longer than the context of the model.', verbose_name='leave if too long')),
                ('named', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='steps', to='endpoints.namedmodel')),
            ],
            options={
                'verbose_name': 'step',
                'verbose_name_plural': 'steps',
                'db_table': 'model_name_steps',
                'ordering': ['position'],
                'constraints': [models.UniqueConstraint(fields=('named', 'position'), name='model_name_step', violation_error_message='Each step may be listed once.')],
            },
        ),
        migrations.RunPython(migrations.RunPython.noop, drop_triggers),
    ]
