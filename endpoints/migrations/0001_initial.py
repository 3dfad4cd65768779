"""The existing tables, whole. On a database that `adopt` takes over this migration is only marked as done."""

import django.core.validators
import django.db.models.deletion
import django.utils.timezone
import endpoints.fields
import endpoints.models
import uuid
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Endpoint',
            fields=[
                ('id', endpoints.fields.TextUUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('name', endpoints.fields.LineField(unique=True, verbose_name='name')),
                ('base_url', endpoints.fields.LineField(unique=True, verbose_name='base URL')),
                ('api_key_encrypted', endpoints.fields.LineField(blank=True, editable=False, null=True)),
                ('status', endpoints.fields.LineField(choices=[('pending', 'Pending'), ('online', 'Online'), ('error', 'Error'), ('offline', 'Offline')], db_default='pending', default='pending', verbose_name='status')),
                ('health_check_interval_secs', models.IntegerField(db_default=30, default=30, validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(3600)], verbose_name='health check interval (s)')),
                ('inference_timeout_secs', models.IntegerField(db_default=120, default=120, help_text='The timeout applies to the first byte, to the gap between two chunks of a stream, and to the whole of any other response.', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(86400)], verbose_name='inference timeout (s)')),
                ('latency_ms', models.IntegerField(blank=True, null=True, verbose_name='latency (ms)')),
                ('last_seen', endpoints.fields.IsoDateTimeField(blank=True, null=True, verbose_name='last response')),
                ('last_error', models.TextField(blank=True, null=True, verbose_name='last error')),
                ('error_count', models.IntegerField(db_default=0, default=0)),
                ('registered_at', endpoints.fields.IsoDateTimeField(default=django.utils.timezone.now, verbose_name='registered')),
                ('notes', models.TextField(blank=True, null=True, verbose_name='notes')),
                ('capabilities', models.JSONField(blank=True, db_default=models.Value('["chat_completion"]'), default=endpoints.models._default_capabilities, null=True)),
                ('device_info', models.JSONField(blank=True, null=True)),
                ('inference_latency_ms', models.FloatField(blank=True, null=True)),
                ('endpoint_type', endpoints.fields.LineField(choices=[('xllm', 'xLLM'), ('ollama', 'Ollama'), ('vllm', 'vLLM'), ('lm_studio', 'LM Studio'), ('llamacpp', 'llama.cpp'), ('openai_compatible', 'OpenAI-compatible')], db_default='openai_compatible', default='openai_compatible', verbose_name='type')),
                ('total_requests', models.BigIntegerField(db_default=0, default=0, verbose_name='requests')),
                ('successful_requests', models.BigIntegerField(db_default=0, default=0)),
                ('failed_requests', models.BigIntegerField(db_default=0, default=0)),
            ],
            options={
                'verbose_name': 'endpoint',
                'verbose_name_plural': 'endpoints',
                'db_table': 'endpoints',
                'ordering': ['-registered_at'],
            },
        ),
        migrations.CreateModel(
            name='EndpointModel',
            fields=[
                ('pk', models.CompositePrimaryKey('endpoint_id', 'model_id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('model_id', endpoints.fields.LineField()),
                ('capabilities', models.JSONField(null=True)),
                ('last_checked', endpoints.fields.IsoDateTimeField(null=True)),
                ('supported_apis', models.JSONField(db_default=models.Value('["chat_completions"]'), null=True)),
                ('max_tokens', models.IntegerField(null=True)),
                ('canonical_name', endpoints.fields.LineField(null=True)),
                ('endpoint', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='models', to='endpoints.endpoint')),
            ],
            options={
                'verbose_name': 'model',
                'verbose_name_plural': 'models',
                'db_table': 'endpoint_models',
            },
        ),
        migrations.CreateModel(
            name='HealthCheck',
            fields=[
                ('id', models.AutoField(primary_key=True, serialize=False)),
                ('checked_at', endpoints.fields.IsoDateTimeField(db_index=True)),
                ('success', models.BooleanField()),
                ('latency_ms', models.IntegerField(null=True)),
                ('error_message', models.TextField(null=True)),
                ('status_before', endpoints.fields.LineField()),
                ('status_after', endpoints.fields.LineField()),
                ('endpoint', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='health_checks', to='endpoints.endpoint')),
            ],
            options={
                'verbose_name': 'health check',
                'verbose_name_plural': 'health checks',
                'db_table': 'endpoint_health_checks',
            },
        ),
    ]
