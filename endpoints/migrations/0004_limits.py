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
            field=endpoints.fields.IsoDateTimeField(blank=True, editable=False, null=True, verbose_name='drain deadline'),
        ),
        migrations.AddField(
            model_name='endpointoptions',
            name='connect_timeout_secs',
            field=models.IntegerField(blank=True, help_text='Time to connect to the server. If this is empty, the timeout is 5 seconds.', null=True, validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(60)], verbose_name='connect timeout (s)'),
        ),
        migrations.AddField(
            model_name='endpointoptions',
            name='idle_timeout_secs',
            field=models.IntegerField(blank=True, help_text='Time between two events of a stream. If this is empty, the inference timeout applies.', null=True, validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(86400)], verbose_name='idle timeout (s)'),
        ),
        migrations.AddField(
            model_name='endpointoptions',
            name='total_timeout_secs',
            field=models.IntegerField(blank=True, help_text='Time for a whole stream. If this is empty, there is no limit.', null=True, validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(86400)], verbose_name='total timeout (s)'),
        ),
        migrations.AddField(
            model_name='endpointoptions',
            name='max_concurrency',
            field=models.IntegerField(blank=True, help_text='Further requests wait in the queue. Leave this empty to use the number of slots that the server reports, or no limit if it reports none.', null=True, validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(10000)], verbose_name='requests at a time'),
        ),
        migrations.AddField(
            model_name='endpointoptions',
            name='learned_slots',
            field=models.IntegerField(blank=True, editable=False, null=True, verbose_name='slots reported by the server'),
        ),
    ]
