"""Who may see bodies, and an index of the ids that clients gave: it costs nothing for requests that came without one."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('metrics', '0006_clients'),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='requesthistory',
            options={
                'ordering': ['-completed_at', '-id'],
                'permissions': [('view_bodies', 'Can view the bodies of requests')],
                'verbose_name': 'request',
                'verbose_name_plural': 'requests',
            },
        ),
        migrations.AddIndex(
            model_name='requesthistory',
            index=models.Index(condition=models.Q(('request_id__isnull', False)), fields=['request_id', 'completed_at'], name='history_request_id'),
        ),
    ]
