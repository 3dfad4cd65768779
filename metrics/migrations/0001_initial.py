"""The existing tables, whole. On a database that `adopt` takes over this migration is only marked as done."""

import endpoints.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Setting',
            fields=[
                ('key', endpoints.fields.LineField(primary_key=True, serialize=False)),
                ('value', models.TextField()),
                ('updated_at', endpoints.fields.LineField()),
            ],
            options={
                'db_table': 'settings',
            },
        ),
        migrations.CreateModel(
            name='DailyStat',
            fields=[
                ('pk', models.CompositePrimaryKey('endpoint_id', 'model_id', 'date', 'api_kind', blank=True, editable=False, primary_key=True, serialize=False)),
                ('endpoint_id', endpoints.fields.TextUUIDField()),
                ('model_id', endpoints.fields.LineField()),
                ('date', endpoints.fields.LineField()),
                ('api_kind', endpoints.fields.LineField(db_default='chat_completions')),
                ('total_requests', models.BigIntegerField(db_default=0, default=0)),
                ('successful_requests', models.BigIntegerField(db_default=0, default=0)),
                ('failed_requests', models.BigIntegerField(db_default=0, default=0)),
                ('total_output_tokens', models.BigIntegerField(db_default=0, default=0)),
                ('total_duration_ms', models.BigIntegerField(db_default=0, default=0)),
            ],
            options={
                'verbose_name': 'daily metrics of endpoints',
                'verbose_name_plural': 'daily metrics of endpoints',
                'db_table': 'endpoint_daily_stats',
                'indexes': [models.Index(fields=['date'], name='idx_daily_stats_date'), models.Index(fields=['endpoint_id', 'date'], name='idx_daily_stats_endpoint_date')],
            },
        ),
        migrations.CreateModel(
            name='RequestHistory',
            fields=[
                ('id', endpoints.fields.TextUUIDField(primary_key=True, serialize=False)),
                ('timestamp', endpoints.fields.IsoDateTimeField()),
                ('request_type', endpoints.fields.LineField()),
                ('model', endpoints.fields.LineField(verbose_name='model')),
                ('endpoint_id', endpoints.fields.TextUUIDField()),
                ('endpoint_name', endpoints.fields.LineField(verbose_name='endpoint')),
                ('endpoint_ip', endpoints.fields.LineField()),
                ('client_ip', endpoints.fields.LineField(null=True, verbose_name='client')),
                ('request_body', models.JSONField()),
                ('response_body', models.JSONField(null=True)),
                ('duration_ms', models.BigIntegerField(verbose_name='duration (ms)')),
                ('status', endpoints.fields.LineField(verbose_name='status')),
                ('error_message', models.TextField(null=True, verbose_name='error')),
                ('completed_at', endpoints.fields.IsoDateTimeField(verbose_name='completed')),
                ('input_tokens', models.BigIntegerField(null=True)),
                ('output_tokens', models.BigIntegerField(null=True)),
                ('total_tokens', models.BigIntegerField(null=True)),
                ('api_key_id', endpoints.fields.TextUUIDField(null=True)),
            ],
            options={
                'verbose_name': 'request',
                'verbose_name_plural': 'requests',
                'db_table': 'request_history',
                'ordering': ['-completed_at', '-id'],
            },
        ),
    ]
