"""Notices that staff has not dismissed: an installation that exists already is told that its balancer changes."""

from django.db import migrations, models


def announce_adaptive(apps, schema_editor):
    """A new database has no row yet, so that a new installation gets no notice."""
    apps.get_model('metrics', 'Installation').objects.update(notices=['adaptive'])


class Migration(migrations.Migration):

    dependencies = [
        ('metrics', '0015_queue_class'),
    ]

    operations = [
        migrations.AddField(
            model_name='installation',
            name='notices',
            field=models.JSONField(null=True),
        ),
        migrations.RunPython(announce_adaptive, migrations.RunPython.noop),
    ]
