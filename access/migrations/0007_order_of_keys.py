"""Index of API keys in the order of lists: without it, a page sorts a million keys."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('access', '0006_limits'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='apikey',
            index=models.Index(fields=['created_at', 'id'], name='api_keys_created'),
        ),
    ]
