"""Viewers who may see bodies. Nullable and without a default: SQLite adds the column without rebuilding the table."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('access', '0002_admin_log'),
    ]

    operations = [
        migrations.AddField(
            model_name='user',
            name='view_bodies',
            field=models.BooleanField(null=True, verbose_name='may see bodies of requests'),
        ),
    ]
