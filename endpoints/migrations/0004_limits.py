"""What staff say of an endpoint's limits, what its server tells, and until when it drains."""

import django.core.validators
import endpoints.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('endpoints', '0003_changes_of_status'),
    ]

    operations = [
        migrations.AddField(
            model_name='endpointoptions',
            name='drain_until',
            field=endpoints.fields.IsoDateTimeField(blank=True, editable=False, null=True, verbose_name='drain until'),
        ),
        migrations.AddField(
            model_name='endpointoptions',
            name='connect_timeout_secs',
            field=models.IntegerField(blank=True, help_text='To reach the server. Empty: 5.', null=True, validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(60)], verbose_name='connect timeout (s)'),
        ),
        migrations.AddField(
            model_name='endpointoptions',
            name='idle_timeout_secs',
            field=models.IntegerField(blank=True, help_text='Between two events of a stream. Empty: as the inference timeout.', null=True, validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(86400)], verbose_name='idle timeout (s)'),
        ),
        migrations.AddField(
            model_name='endpointoptions',
            name='total_timeout_secs',
            field=models.IntegerField(blank=True, help_text='For the whole of a stream. Empty: none.', null=True, validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(86400)], verbose_name='total timeout (s)'),
        ),
        migrations.AddField(
            model_name='endpointoptions',
            name='max_concurrency',
            field=models.IntegerField(blank=True, help_text='More of them wait in the queue. Empty: as many as the server tells, else any number.', null=True, validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(10000)], verbose_name='requests at a time'),
        ),
        migrations.AddField(
            model_name='endpointoptions',
            name='learned_slots',
            field=models.IntegerField(blank=True, editable=False, null=True, verbose_name='slots that the server tells'),
        ),
    ]
