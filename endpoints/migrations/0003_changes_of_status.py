"""An index of the few checks that changed a status: an endpoint's page shows them among millions of others."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0002_own_tables'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='healthcheck',
            index=models.Index(condition=models.Q(('status_before', models.F('status_after')), _negated=True), fields=['endpoint', 'id'], name='checks_changes'),
        ),
    ]
