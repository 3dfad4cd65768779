"""Tables of ours."""

import django.db.models.deletion
import endpoints.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='ChangeCounter',
            fields=[
                ('name', endpoints.fields.LineField(primary_key=True, serialize=False)),
                ('value', models.BigIntegerField(default=0)),
            ],
            options={
                'db_table': 'change_counters',
            },
        ),
        migrations.CreateModel(
            name='EndpointOptions',
            fields=[
                ('endpoint', models.OneToOneField(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='options', serialize=False, to='endpoints.endpoint')),
                ('operator_state', endpoints.fields.LineField(choices=[('enabled', 'Enabled'), ('draining', 'Draining'), ('disabled', 'Disabled')], default='enabled', verbose_name="operator's state")),
                ('sealed_api_key', models.TextField(blank=True, editable=False, null=True)),
            ],
            options={
                'verbose_name': 'options',
                'verbose_name_plural': 'options',
                'db_table': 'endpoint_options',
            },
        ),
    ]
