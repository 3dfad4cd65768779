"""The change log, which triggers write (endpoints.changes.triggers), and the position up to which it was read."""

from django.db import migrations, models


def drop_triggers(apps, schema_editor):
    """Drop our triggers before their log: with them, every write of a watched table would fail without it."""
    with schema_editor.connection.cursor() as cursor:
        if schema_editor.connection.vendor == 'postgresql':
            cursor.execute(
                "SELECT DISTINCT pg_proc.oid::regprocedure FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid "
                "WHERE tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = current_schema()::regnamespace) "
                "AND starts_with(tgname, 'routerdash_')"
            )
            statements = [f'DROP FUNCTION {name} CASCADE' for name, in cursor.fetchall()]
        else:
            cursor.execute("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name GLOB 'routerdash_*'")
            statements = [f'DROP TRIGGER "{name}"' for name, in cursor.fetchall()]
        for statement in statements:
            cursor.execute(statement)


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0005_tags'),
    ]

    operations = [
        migrations.CreateModel(
            name='RegistryChange',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('kind', models.TextField()),
                ('object_id', models.TextField()),
            ],
            options={
                'db_table': 'registry_changes',
            },
        ),
        migrations.CreateModel(
            name='RegistryPosition',
            fields=[
                ('id', models.IntegerField(default=1, primary_key=True, serialize=False)),
                ('token', models.TextField()),
            ],
            options={
                'db_table': 'registry_position',
            },
        ),
        migrations.RunPython(migrations.RunPython.noop, drop_triggers),
    ]
