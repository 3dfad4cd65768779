"""Whether an administrator disabled an API key: then its owner does not enable it again.

The column is nullable and without a default: SQLite adds it without rebuilding the table, and llmlb still writes its rows.
"""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('access', '0008_deleted_keys'),
    ]

    operations = [
        migrations.AddField(
            model_name='apikey',
            name='disabled_by_admin',
            field=models.BooleanField(editable=False, null=True),
        ),
    ]
