"""Cloud, API version, allowed models and external mark of an endpoint: nullable columns in a table of ours."""

from importlib import import_module

import endpoints.fields
from django.db import migrations, models

# Our triggers name these columns, so that they cannot be dropped before them. Each start creates missing triggers.
drop_triggers = import_module('endpoints.migrations.0006_change_log').drop_triggers


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0008_model_names'),
    ]

    operations = [
        migrations.AddField(
            model_name='endpointoptions',
            name='allowed_models',
            field=models.JSONField(blank=True, help_text='Patterns such as gpt-5*, separated by commas. Only models that match one are stored. If this is empty, all are. Azure OpenAI does not list its deployments, so enter their names.', null=True, verbose_name='allowed models'),
        ),
        migrations.AddField(
            model_name='endpointoptions',
            name='api_version',
            field=endpoints.fields.LineField(blank=True, help_text='Only for addresses of Azure OpenAI without /v1: a date such as 2024-10-21, which each request names.', null=True, verbose_name='API version'),
        ),
        migrations.AddField(
            model_name='endpointoptions',
            name='cloud_type',
            field=endpoints.fields.LineField(blank=True, choices=[('openai', 'OpenAI'), ('anthropic', 'Anthropic'), ('gemini', 'Google Gemini'), ('azure', 'Azure OpenAI'), ('openrouter', 'OpenRouter'), ('groq', 'Groq'), ('mistral', 'Mistral'), ('deepseek', 'DeepSeek'), ('xai', 'xAI'), ('together', 'Together AI')], help_text='The cloud whose API this endpoint has. Leave this empty for a server of your own.', null=True, verbose_name='cloud'),
        ),
        migrations.AddField(
            model_name='endpointoptions',
            name='external',
            field=models.BooleanField(blank=True, help_text='Requests to an external endpoint leave your network. Only API keys that may use external endpoints reach it. If this is not set, clouds are external and other endpoints are not.', null=True, verbose_name='external'),
        ),
        migrations.RunPython(migrations.RunPython.noop, drop_triggers),
    ]
