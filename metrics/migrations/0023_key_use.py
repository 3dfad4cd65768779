"""Last use of API keys, and their refused requests by day: tables of their own, so that no existing one is rebuilt."""

import time

import endpoints.fields
from django.db import migrations, models

TABLES = ("api_key_last_uses", "rollup_refused_days")


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


def note_the_start(apps, schema_editor):
    """Earlier requests count in no row of these tables."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("UPDATE installation SET key_use_since = %s", [int(time.time() // 60) + 1])


class Migration(migrations.Migration):

    dependencies = [
        ("metrics", "0022_hardware_batches"),
    ]

    operations = [
        migrations.CreateModel(
            name="LastUse",
            fields=[
                ("api_key_id", endpoints.fields.LineField(primary_key=True, serialize=False)),
                ("last_used_us", models.BigIntegerField()),
            ],
            options={"db_table": "api_key_last_uses"},
        ),
        migrations.CreateModel(
            name="RefusedDayRollUp",
            fields=[
                ("pk", models.CompositePrimaryKey("date", "api_key_id", "code", "limit_name", blank=True, editable=False, primary_key=True, serialize=False)),
                ("date", endpoints.fields.LineField()),
                ("api_key_id", endpoints.fields.LineField()),
                ("code", endpoints.fields.LineField()),
                ("limit_name", endpoints.fields.LineField()),
                ("requests_rejected", models.BigIntegerField()),
            ],
            options={
                "verbose_name": "daily refused requests",
                "verbose_name_plural": "daily refused requests",
                "db_table": "rollup_refused_days",
            },
        ),
        migrations.AddField(model_name="installation", name="key_use_since", field=models.BigIntegerField(null=True)),
        migrations.RunPython(put_in_order, migrations.RunPython.noop, elidable=False),
        migrations.RunPython(note_the_start, migrations.RunPython.noop, elidable=False),
    ]
