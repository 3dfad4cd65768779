"""Words by which staff group endpoints: a nullable column without a default in a table of ours."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0004_limits'),
    ]

    operations = [
        migrations.AddField(
            model_name='endpointoptions',
            name='tags',
            field=models.JSONField(blank=True, null=True, verbose_name='tags'),
        ),
    ]
