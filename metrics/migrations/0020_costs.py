"""Daily costs by price: a table of their own, so that no existing one is rebuilt."""

import endpoints.fields
from django.db import migrations, models


def put_in_order(apps, schema_editor):
    """As 0009 did with the tables that were there then."""
    if schema_editor.connection.vendor != "sqlite":
        return
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'rollup_cost_days'")
        ((made,),) = cursor.fetchall()
        cursor.execute("DROP TABLE rollup_cost_days")
        cursor.execute(f"{made} WITHOUT ROWID")


class Migration(migrations.Migration):

    dependencies = [
        ("metrics", "0019_prices"),
    ]

    operations = [
        migrations.CreateModel(
            name="CostDayRollUp",
            fields=[
                ("pk", models.CompositePrimaryKey("date", "endpoint_id", "model", "kind", "api_key_id", "served", "canonical", "step", "price_id", "currency", blank=True, editable=False, primary_key=True, serialize=False)),
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
                ("requests", models.BigIntegerField()),
                ("estimated_requests", models.BigIntegerField()),
                ("cost", models.BigIntegerField()),
                ("estimated_cost", models.BigIntegerField()),
            ],
            options={
                "verbose_name": "daily costs",
                "verbose_name_plural": "daily costs",
                "db_table": "rollup_cost_days",
            },
        ),
        migrations.RunPython(put_in_order, migrations.RunPython.noop, elidable=False),
    ]
