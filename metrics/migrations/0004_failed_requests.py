"""An index of the requests that went wrong: whoever looks for them finds them, however many went well."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('metrics', '0003_distributions'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='requesthistory',
            index=models.Index(condition=models.Q(('status', 'error')), fields=['completed_at'], name='history_failed'),
        ),
    ]
