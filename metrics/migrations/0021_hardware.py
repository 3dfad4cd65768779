"""Own hardware: rates, the work of requests, and costs by hour and day. No existing table is changed."""

import django.utils.timezone
import endpoints.fields
from django.db import migrations, models

TABLES = ("hardware_work", "hardware_hours", "rollup_hardware_days")


def put_in_order(apps, schema_editor):
    """As 0009 did with the tables that were there then."""
    if schema_editor.connection.vendor != "sqlite":
        return
    with schema_editor.connection.cursor() as cursor:
        for table in TABLES:
            cursor.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = %s", [table])
            ((made,),) = cursor.fetchall()
            cursor.execute(f"DROP TABLE {table}")
            cursor.execute(f"{made} WITHOUT ROWID")


class Migration(migrations.Migration):

    dependencies = [
        ('metrics', '0020_costs'),
    ]

    operations = [
        migrations.CreateModel(
            name='HardwareDue',
            fields=[
                ('pk', models.CompositePrimaryKey('hour', 'endpoint_id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('hour', models.BigIntegerField()),
                ('endpoint_id', endpoints.fields.TextUUIDField()),
            ],
            options={
                'db_table': 'hardware_due',
            },
        ),
        migrations.CreateModel(
            name='HardwareHour',
            fields=[
                ('date', endpoints.fields.LineField()),
                ('endpoint_id', endpoints.fields.TextUUIDField()),
                ('rate_id', models.BigIntegerField()),
                ('currency', endpoints.fields.LineField()),
                ('model', endpoints.fields.LineField()),
                ('kind', endpoints.fields.LineField()),
                ('api_key_id', endpoints.fields.LineField()),
                ('seconds', models.BigIntegerField()),
                ('busy_us', models.BigIntegerField()),
                ('work_us', models.BigIntegerField()),
                ('requests', models.BigIntegerField()),
                ('input_tokens', models.BigIntegerField()),
                ('output_tokens', models.BigIntegerField()),
                ('cached_tokens', models.BigIntegerField()),
                ('write_tokens', models.BigIntegerField()),
                ('long_write_tokens', models.BigIntegerField()),
                ('reasoning_tokens', models.BigIntegerField()),
                ('cost', models.BigIntegerField()),
                ('pk', models.CompositePrimaryKey('start', 'endpoint_id', 'model', 'kind', 'api_key_id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('start', models.BigIntegerField()),
            ],
            options={
                'db_table': 'hardware_hours',
            },
        ),
        migrations.CreateModel(
            name='HardwarePosition',
            fields=[
                ('endpoint_id', endpoints.fields.TextUUIDField(primary_key=True, serialize=False)),
                ('hour', models.BigIntegerField()),
            ],
            options={
                'db_table': 'hardware_positions',
            },
        ),
        migrations.CreateModel(
            name='HardwareWork',
            fields=[
                ('pk', models.CompositePrimaryKey('hour', 'endpoint_id', 'request_id', 'attempt', blank=True, editable=False, primary_key=True, serialize=False)),
                ('hour', models.BigIntegerField()),
                ('endpoint_id', endpoints.fields.TextUUIDField()),
                ('request_id', endpoints.fields.TextUUIDField()),
                ('attempt', models.IntegerField()),
                ('start_us', models.BigIntegerField()),
                ('end_us', models.BigIntegerField()),
                ('model', endpoints.fields.LineField()),
                ('kind', endpoints.fields.LineField()),
                ('api_key_id', endpoints.fields.LineField()),
                ('requests', models.IntegerField()),
                ('input_tokens', models.BigIntegerField()),
                ('output_tokens', models.BigIntegerField()),
                ('cached_tokens', models.BigIntegerField()),
                ('write_tokens', models.BigIntegerField()),
                ('long_write_tokens', models.BigIntegerField()),
                ('reasoning_tokens', models.BigIntegerField()),
            ],
            options={
                'db_table': 'hardware_work',
            },
        ),
        migrations.CreateModel(
            name='HardwareDayRollUp',
            fields=[
                ('date', endpoints.fields.LineField()),
                ('endpoint_id', endpoints.fields.TextUUIDField()),
                ('rate_id', models.BigIntegerField()),
                ('currency', endpoints.fields.LineField()),
                ('model', endpoints.fields.LineField()),
                ('kind', endpoints.fields.LineField()),
                ('api_key_id', endpoints.fields.LineField()),
                ('seconds', models.BigIntegerField()),
                ('busy_us', models.BigIntegerField()),
                ('work_us', models.BigIntegerField()),
                ('requests', models.BigIntegerField()),
                ('input_tokens', models.BigIntegerField()),
                ('output_tokens', models.BigIntegerField()),
                ('cached_tokens', models.BigIntegerField()),
                ('write_tokens', models.BigIntegerField()),
                ('long_write_tokens', models.BigIntegerField()),
                ('reasoning_tokens', models.BigIntegerField()),
                ('cost', models.BigIntegerField()),
                ('pk', models.CompositePrimaryKey('date', 'endpoint_id', 'rate_id', 'currency', 'model', 'kind', 'api_key_id', blank=True, editable=False, primary_key=True, serialize=False)),
            ],
            options={
                'verbose_name': 'daily costs of own hardware',
                'verbose_name_plural': 'daily costs of own hardware',
                'db_table': 'rollup_hardware_days',
            },
        ),
        migrations.CreateModel(
            name='HardwareRateRow',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('endpoint_id', endpoints.fields.TextUUIDField(verbose_name='endpoint')),
                ('valid_from', endpoints.fields.IsoDateTimeField(verbose_name='valid from')),
                ('valid_until', endpoints.fields.IsoDateTimeField(blank=True, help_text="Excluded. Empty: until the endpoint's next rate counts.", null=True, verbose_name='valid until')),
                ('currency', endpoints.fields.LineField(help_text='ISO 4217 code, such as USD.', verbose_name='currency')),
                ('per_hour', models.BigIntegerField(blank=True, help_text='Of the hardware, whether it is idle or busy.', null=True, verbose_name='amount per hour')),
                ('idle_watts', models.BigIntegerField(blank=True, help_text='While no request runs.', null=True, verbose_name='watts when idle')),
                ('busy_watts', models.BigIntegerField(blank=True, help_text='While at least one request runs.', null=True, verbose_name='watts when busy')),
                ('per_kwh', models.BigIntegerField(blank=True, help_text='Price of energy.', null=True, verbose_name='amount per kWh')),
                ('note', endpoints.fields.LineField(blank=True, default='', verbose_name='note')),
                ('created_at', endpoints.fields.IsoDateTimeField(default=django.utils.timezone.now, editable=False, verbose_name='created')),
            ],
            options={
                'verbose_name': 'rate of own hardware',
                'verbose_name_plural': 'rates of own hardware',
                'db_table': 'hardware_rates',
                'ordering': ['endpoint_id', '-valid_from', 'id'],
                'constraints': [models.UniqueConstraint(fields=('endpoint_id', 'valid_from'), name='hardware_rates_once')],
            },
        ),
        migrations.RunPython(put_in_order, migrations.RunPython.noop, elidable=False),
        migrations.AddIndex(
            model_name='hardwaredayrollup',
            index=models.Index(fields=['endpoint_id', 'date'], name='hardware_days_endpoint'),
        ),
    ]
