"""Sums of sums, so that long spans need few rows: months of days, and hours of all clients together."""

import ipaddress

import endpoints.fields
from django.db import migrations, models

DIMENSIONS = "endpoint_id, model, kind, api_key_id"
CELL = (
    "requests_ok", "requests_failed", "requests_cancelled", "attempts_ok", "attempts_failed", "input_tokens",
    "output_tokens", "ok_duration_us", "requests_rejected", "first_token_us",
)
CLIENT = "requests_ok", "requests_failed", "requests_cancelled", "input_tokens", "output_tokens"


def put_in_order(apps, schema_editor):
    """As 0009 did with the tables that were there then."""
    if schema_editor.connection.vendor != "sqlite":
        return
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'rollup_months'")
        ((made,),) = cursor.fetchall()
        cursor.execute("DROP TABLE rollup_months")
        cursor.execute(f"{made} WITHOUT ROWID")


def fill(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        sums = ", ".join(f"COALESCE(SUM({name}), 0)" for name in CELL)
        cursor.execute(
            f"INSERT INTO rollup_months (month, {DIMENSIONS}, {', '.join(CELL)}) "
            f"SELECT substr(date, 1, 7), {DIMENSIONS}, {sums} FROM rollup_days "
            f"GROUP BY substr(date, 1, 7), {DIMENSIONS}"
        )
        cursor.execute(
            f"INSERT INTO rollup_all_clients (hour, {', '.join(CLIENT)}, clients) "
            f"SELECT hour, {', '.join(f'SUM({name})' for name in CLIENT)}, COUNT(NULLIF(client_ip, '')) "
            "FROM rollup_client_hours GROUP BY hour"
        )
        together = "STRING_AGG" if schema_editor.connection.vendor == "postgresql" else "GROUP_CONCAT"
        cursor.execute(
            f"SELECT hour, {together}(client_ip, %s) FROM rollup_client_hours WHERE client_ip LIKE %s GROUP BY hour",
            ["\n", "%:%"],
        )
        # An IPv6 /64 is one client.
        shared = [(len(each) - len(set(map(client_of, each))), hour) for hour, each in _split(cursor.fetchall())]
        cursor.executemany("UPDATE rollup_all_clients SET clients = clients - %s WHERE hour = %s", shared)


def client_of(address):
    """Return the client of an address as this migration counts it: an IPv6 /64, or the address itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address) or parsed.is_loopback:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


def _split(rows):
    return [(hour, addresses.split("\n")) for hour, addresses in rows]


class Migration(migrations.Migration):

    dependencies = [
        ('metrics', '0009_roll_ups_in_order'),
    ]

    operations = [
        migrations.CreateModel(
            name='AllClientsRollUp',
            fields=[
                ('hour', models.BigIntegerField(primary_key=True, serialize=False)),
                ('requests_ok', models.BigIntegerField()),
                ('requests_failed', models.BigIntegerField()),
                ('requests_cancelled', models.BigIntegerField()),
                ('input_tokens', models.BigIntegerField()),
                ('output_tokens', models.BigIntegerField()),
                ('clients', models.BigIntegerField()),
            ],
            options={
                'verbose_name': 'hourly totals of all clients',
                'verbose_name_plural': 'hourly totals of all clients',
                'db_table': 'rollup_all_clients',
            },
        ),
        migrations.CreateModel(
            name='MonthRollUp',
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
                ('requests_rejected', models.BigIntegerField(null=True)),
                ('first_token_us', models.BigIntegerField(null=True)),
                ('pk', models.CompositePrimaryKey('month', 'endpoint_id', 'model', 'kind', 'api_key_id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('month', endpoints.fields.LineField()),
            ],
            options={
                'verbose_name': 'monthly roll-ups',
                'verbose_name_plural': 'monthly roll-ups',
                'db_table': 'rollup_months',
            },
        ),
        migrations.RunPython(put_in_order, migrations.RunPython.noop, elidable=False),
        migrations.RunPython(fill, migrations.RunPython.noop, elidable=False),
    ]
