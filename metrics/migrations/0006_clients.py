"""Requests by client, counted from here on: what came before is in the history alone, for its few days."""

import endpoints.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('metrics', '0005_queue_and_request_id'),
    ]

    operations = [
        migrations.CreateModel(
            name='ClientDayRollUp',
            fields=[
                ('client_ip', endpoints.fields.LineField()),
                ('requests_ok', models.BigIntegerField()),
                ('requests_failed', models.BigIntegerField()),
                ('requests_cancelled', models.BigIntegerField()),
                ('input_tokens', models.BigIntegerField()),
                ('output_tokens', models.BigIntegerField()),
                ('pk', models.CompositePrimaryKey('day', 'client_ip', 'api_key_id', 'model', blank=True, editable=False, primary_key=True, serialize=False)),
                ('day', models.BigIntegerField()),
                ('api_key_id', endpoints.fields.LineField()),
                ('model', endpoints.fields.LineField()),
            ],
            options={
                'db_table': 'rollup_client_days',
                'indexes': [models.Index(fields=['client_ip', 'day'], name='client_days_client')],
            },
        ),
        migrations.CreateModel(
            name='ClientHourRollUp',
            fields=[
                ('client_ip', endpoints.fields.LineField()),
                ('requests_ok', models.BigIntegerField()),
                ('requests_failed', models.BigIntegerField()),
                ('requests_cancelled', models.BigIntegerField()),
                ('input_tokens', models.BigIntegerField()),
                ('output_tokens', models.BigIntegerField()),
                ('pk', models.CompositePrimaryKey('hour', 'client_ip', blank=True, editable=False, primary_key=True, serialize=False)),
                ('hour', models.BigIntegerField()),
                ('last_us', models.BigIntegerField(null=True)),
            ],
            options={
                'db_table': 'rollup_client_hours',
                'indexes': [models.Index(fields=['client_ip', 'hour'], name='client_hours_client')],
            },
        ),
    ]
