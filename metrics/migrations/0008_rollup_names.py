"""Roll-ups are called by their names in the admin. Nothing changes in the database."""

from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('metrics', '0007_bodies_and_request_ids'),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='clientdayrollup',
            options={'verbose_name': 'clients by day', 'verbose_name_plural': 'clients by day'},
        ),
        migrations.AlterModelOptions(
            name='clienthourrollup',
            options={'verbose_name': 'clients by hour', 'verbose_name_plural': 'clients by hour'},
        ),
        migrations.AlterModelOptions(
            name='dayrollup',
            options={'verbose_name': 'roll-ups by day', 'verbose_name_plural': 'roll-ups by day'},
        ),
        migrations.AlterModelOptions(
            name='minuterollup',
            options={'verbose_name': 'roll-ups by minute', 'verbose_name_plural': 'roll-ups by minute'},
        ),
    ]
