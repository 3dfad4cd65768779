"""Sums of daily costs by the number of their key. Their table becomes a view of the same name and columns."""

import endpoints.fields
from django.db import migrations, models

KEYS = "date, endpoint_id, model, kind, api_key_id, served, canonical, step, price_id, currency"
SUMS = "requests, estimated_requests, cost, estimated_cost"
NUMBERED = f"INSERT INTO rollup_cost_keys ({KEYS}, number) SELECT {KEYS}, row_number() OVER (ORDER BY {KEYS}) FROM rollup_cost_days"
SUMMED = f"INSERT INTO rollup_cost_sums (number, {SUMS}) SELECT number, {SUMS} FROM rollup_cost_keys JOIN rollup_cost_days USING ({KEYS})"
VIEW = f"""
    CREATE VIEW rollup_cost_days AS
    SELECT {KEYS}, {SUMS} FROM rollup_cost_keys JOIN rollup_cost_sums ON rollup_cost_sums.number = rollup_cost_keys.number
    WHERE requests <> 0 OR estimated_requests <> 0 OR cost <> 0 OR estimated_cost <> 0
"""


UNNUMBERED = f"INSERT INTO rollup_cost_days ({KEYS}, {SUMS}) SELECT {KEYS}, {SUMS} FROM rollup_cost_keys JOIN rollup_cost_sums USING (number)"


def put_in_order(schema_editor, table):
    """As 0009 did with the tables that were there then."""
    if schema_editor.connection.vendor != "sqlite":
        return
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(f"SELECT sql FROM sqlite_master WHERE type = 'table' AND name = '{table}'")
        ((made,),) = cursor.fetchall()
        cursor.execute(f"DROP TABLE {table}")
        cursor.execute(f"{made} WITHOUT ROWID")


def put_keys_in_order(apps, schema_editor):
    put_in_order(schema_editor, "rollup_cost_keys")


def make_view(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(NUMBERED)
        cursor.execute(SUMMED)
        cursor.execute("DROP TABLE rollup_cost_days")
        cursor.execute(VIEW)


def make_table(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("DROP VIEW rollup_cost_days")
        schema_editor.create_model(apps.get_model("metrics", "CostDayRollUp"))
        put_in_order(schema_editor, "rollup_cost_days")
        cursor.execute(UNNUMBERED)


class Migration(migrations.Migration):

    dependencies = [
        ("metrics", "0023_key_use"),
    ]

    operations = [
        migrations.CreateModel(
            name="CostKey",
            fields=[
                ("date", endpoints.fields.LineField()),
                ("endpoint_id", endpoints.fields.TextUUIDField()),
                ("model", endpoints.fields.LineField()),
                ("kind", endpoints.fields.LineField()),
                ("api_key_id", endpoints.fields.LineField()),
                ("served", endpoints.fields.LineField()),
                ("canonical", endpoints.fields.LineField()),
                ("step", models.IntegerField()),
                ("price_id", models.BigIntegerField()),
                ("currency", endpoints.fields.LineField()),
                ("pk", models.CompositePrimaryKey("date", "endpoint_id", "model", "kind", "api_key_id", "served", "canonical", "step", "price_id", "currency", blank=True, editable=False, primary_key=True, serialize=False)),
                ("number", models.IntegerField()),
            ],
            options={
                "db_table": "rollup_cost_keys",
            },
        ),
        migrations.CreateModel(
            name="CostSum",
            fields=[
                ("number", models.IntegerField(primary_key=True, serialize=False)),
                ("requests", models.BigIntegerField()),
                ("estimated_requests", models.BigIntegerField()),
                ("cost", models.BigIntegerField()),
                ("estimated_cost", models.BigIntegerField()),
            ],
            options={
                "db_table": "rollup_cost_sums",
            },
        ),
        migrations.AlterModelOptions(
            name="costdayrollup",
            options={"managed": False, "verbose_name": "daily costs", "verbose_name_plural": "daily costs"},
        ),
        migrations.RunPython(put_keys_in_order, migrations.RunPython.noop, elidable=False),
        migrations.RunPython(make_view, make_table, elidable=False),
    ]
