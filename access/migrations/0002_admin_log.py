"""Let a user be deleted under the admin's log, as the reference may do: the log's rows go with the user.

Django makes the log's foreign key without a rule of its own, which would refuse that.
"""

from django.db import migrations

TABLE = "django_admin_log"


def cascade(apps, schema_editor):
    if schema_editor.connection.vendor == "sqlite":
        with schema_editor.connection.cursor() as cursor:
            cursor.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = %s", [TABLE])
            (sql,) = cursor.fetchone()
            cursor.execute("SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = %s AND sql NOT NULL", [TABLE])
            indexes = [row[0] for row in cursor.fetchall()]
            old = 'REFERENCES "users" ("id") DEFERRABLE INITIALLY DEFERRED'
            assert old in sql, sql
            cursor.execute(f"DROP TABLE {TABLE}")  # made a moment ago, by the migration before this one
            cursor.execute(sql.replace(old, 'REFERENCES "users" ("id") ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED'))
            for index in indexes:
                cursor.execute(index)


class Migration(migrations.Migration):
    dependencies = [("access", "0001_initial"), ("admin", "0003_logentry_add_action_flag_choices")]
    operations = [migrations.RunPython(cascade, migrations.RunPython.noop)]
