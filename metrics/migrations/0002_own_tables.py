"""Tables of ours, and nullable columns without default: any other kind would rebuild a SQLite table."""

import endpoints.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('metrics', '0001_initial'),
    ]

    operations = [
        migrations.AddField('requesthistory', 'outcome', endpoints.fields.LineField(null=True, verbose_name='outcome')),
        migrations.AddField('requesthistory', 'status_code', models.IntegerField(null=True)),
        migrations.AddField('requesthistory', 'kind', endpoints.fields.LineField(null=True, verbose_name='kind')),
        migrations.AddField('requesthistory', 'duration_us', models.BigIntegerField(null=True)),
        migrations.AddField('requesthistory', 'first_token_us', models.BigIntegerField(null=True)),
        migrations.AddField('requesthistory', 'tokens_estimated', models.BooleanField(null=True)),
        migrations.AddField('requesthistory', 'streamed', models.BooleanField(null=True)),
        migrations.AddField('requesthistory', 'attempts', models.JSONField(null=True)),
        migrations.AddIndex('requesthistory', models.Index(fields=['completed_at'], name='history_completed')),
        migrations.AddIndex('requesthistory', models.Index(fields=['endpoint_id', 'completed_at'], name='history_endpoint')),
        migrations.CreateModel(
            name='Baseline',
            fields=[
                ('endpoint_id', endpoints.fields.TextUUIDField(primary_key=True, serialize=False)),
                ('total_requests', models.BigIntegerField()),
                ('successful_requests', models.BigIntegerField()),
                ('failed_requests', models.BigIntegerField()),
                ('daily_total', models.BigIntegerField()),
                ('daily_successful', models.BigIntegerField()),
                ('daily_failed', models.BigIntegerField()),
            ],
            options={
                'db_table': 'endpoint_baselines',
            },
        ),
        migrations.CreateModel(
            name='DayRollUp',
            fields=[
                ('endpoint_id', endpoints.fields.TextUUIDField()),
                ('model', endpoints.fields.LineField()),
                ('kind', endpoints.fields.LineField()),
                ('api_key_id', endpoints.fields.LineField()),
                ('requests_ok', models.BigIntegerField()),
                ('requests_failed', models.BigIntegerField()),
                ('requests_cancelled', models.BigIntegerField()),
                ('attempts_ok', models.BigIntegerField()),
                ('attempts_failed', models.BigIntegerField()),
                ('input_tokens', models.BigIntegerField()),
                ('output_tokens', models.BigIntegerField()),
                ('ok_duration_us', models.BigIntegerField()),
                ('pk', models.CompositePrimaryKey('date', 'endpoint_id', 'model', 'kind', 'api_key_id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('date', endpoints.fields.LineField()),
            ],
            options={
                'db_table': 'rollup_days',
            },
        ),
        migrations.CreateModel(
            name='Installation',
            fields=[
                ('id', models.IntegerField(default=1, primary_key=True, serialize=False)),
                ('database_id', endpoints.fields.LineField()),
                ('created_at', endpoints.fields.IsoDateTimeField()),
                ('adopted_at', endpoints.fields.IsoDateTimeField(null=True)),
            ],
            options={
                'db_table': 'installation',
            },
        ),
        migrations.CreateModel(
            name='JournalPosition',
            fields=[
                ('writer', endpoints.fields.LineField(primary_key=True, serialize=False)),
                ('segment', models.BigIntegerField()),
                ('position', models.BigIntegerField()),
            ],
            options={
                'db_table': 'journal_positions',
            },
        ),
        migrations.CreateModel(
            name='MinuteRollUp',
            fields=[
                ('endpoint_id', endpoints.fields.TextUUIDField()),
                ('model', endpoints.fields.LineField()),
                ('kind', endpoints.fields.LineField()),
                ('api_key_id', endpoints.fields.LineField()),
                ('requests_ok', models.BigIntegerField()),
                ('requests_failed', models.BigIntegerField()),
                ('requests_cancelled', models.BigIntegerField()),
                ('attempts_ok', models.BigIntegerField()),
                ('attempts_failed', models.BigIntegerField()),
                ('input_tokens', models.BigIntegerField()),
                ('output_tokens', models.BigIntegerField()),
                ('ok_duration_us', models.BigIntegerField()),
                ('pk', models.CompositePrimaryKey('minute', 'endpoint_id', 'model', 'kind', 'api_key_id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('minute', models.BigIntegerField()),
            ],
            options={
                'db_table': 'rollup_minutes',
            },
        ),
        migrations.CreateModel(
            name='MovingAverage',
            fields=[
                ('pk', models.CompositePrimaryKey('endpoint_id', 'model', 'kind', blank=True, editable=False, primary_key=True, serialize=False)),
                ('endpoint_id', endpoints.fields.TextUUIDField()),
                ('model', endpoints.fields.LineField()),
                ('kind', endpoints.fields.LineField()),
                ('value', models.FloatField()),
                ('samples', models.BinaryField()),
            ],
            options={
                'db_table': 'moving_averages',
            },
        ),
        migrations.CreateModel(
            name='Total',
            fields=[
                ('name', endpoints.fields.LineField(primary_key=True, serialize=False)),
                ('value', models.BigIntegerField()),
            ],
            options={
                'db_table': 'metric_totals',
            },
        ),
    ]
