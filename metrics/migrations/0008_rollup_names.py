"""Roll-ups are called by their names in the admin. Nothing changes in the database."""

from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('metrics', '0007_bodies_and_request_ids'),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='clientdayrollup',
            options={'verbose_name': 'daily clients', 'verbose_name_plural': 'daily clients'},
        ),
        migrations.AlterModelOptions(
            name='clienthourrollup',
            options={'verbose_name': 'hourly clients', 'verbose_name_plural': 'hourly clients'},
        ),
        migrations.AlterModelOptions(
            name='dayrollup',
            options={'verbose_name': 'daily roll-ups', 'verbose_name_plural': 'daily roll-ups'},
        ),
        migrations.AlterModelOptions(
            name='minuterollup',
            options={'verbose_name': 'per-minute roll-ups', 'verbose_name_plural': 'per-minute roll-ups'},
        ),
    ]
