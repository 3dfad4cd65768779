"""Tokens that only some servers report, in all roll-ups, and days by served model. No row is rewritten."""

import time

import endpoints.fields
from django.db import migrations, models

DETAILS = (
    "cached_tokens", "cached_of_tokens", "cache_reports", "cache_hits", "cache_write_tokens", "cache_write_reports",
    "reasoning_tokens", "reasoning_of_tokens", "reasoning_reports",
)


def put_in_order(apps, schema_editor):
    """As 0009 did with the tables that were there then."""
    if schema_editor.connection.vendor != "sqlite":
        return
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'rollup_served_days'")
        ((made,),) = cursor.fetchall()
        cursor.execute("DROP TABLE rollup_served_days")
        cursor.execute(f"{made} WITHOUT ROWID")


def note_the_start(apps, schema_editor):
    """Earlier requests of the history may have details, but no roll-up counts them."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("UPDATE installation SET details_since = %s", [int(time.time() // 60) + 1])


class Migration(migrations.Migration):

    dependencies = [
        ("metrics", "0017_load_times"),
    ]

    operations = [
        migrations.CreateModel(
            name="ServedDayRollUp",
            fields=[
                *[(name, models.BigIntegerField(null=True)) for name in DETAILS],
                ("pk", models.CompositePrimaryKey("date", "endpoint_id", "model", "kind", "api_key_id", "served", "canonical", "step", blank=True, editable=False, primary_key=True, serialize=False)),
                ("date", endpoints.fields.LineField()),
                ("endpoint_id", endpoints.fields.TextUUIDField()),
                ("model", endpoints.fields.LineField()),
                ("kind", endpoints.fields.LineField()),
                ("api_key_id", endpoints.fields.LineField()),
                ("served", endpoints.fields.LineField()),
                ("canonical", endpoints.fields.LineField()),
                ("step", models.IntegerField()),
                ("requests_ok", models.BigIntegerField()),
                ("requests_failed", models.BigIntegerField()),
                ("requests_cancelled", models.BigIntegerField()),
                ("input_tokens", models.BigIntegerField()),
                ("output_tokens", models.BigIntegerField()),
                ("ok_duration_us", models.BigIntegerField()),
            ],
            options={
                "verbose_name": "daily roll-ups by served model",
                "verbose_name_plural": "daily roll-ups by served model",
                "db_table": "rollup_served_days",
            },
        ),
        *[
            migrations.AddField(model_name=table, name=name, field=models.BigIntegerField(null=True))
            for table in ("minuterollup", "dayrollup", "monthrollup")
            for name in DETAILS
        ],
        migrations.AddField(
            model_name="installation", name="details_since", field=models.BigIntegerField(null=True)
        ),
        migrations.RunPython(put_in_order, migrations.RunPython.noop, elidable=False),
        migrations.RunPython(note_the_start, migrations.RunPython.noop, elidable=False),
    ]
