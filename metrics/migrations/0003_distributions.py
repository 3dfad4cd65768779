"""Distributions, first tokens and refusals in the roll-ups; a small index over what the reference wrote."""

import endpoints.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('metrics', '0002_own_tables'),
    ]

    operations = [
        migrations.AddField(
            model_name='dayrollup',
            name='durations',
            field=endpoints.fields.LineField(null=True),
        ),
        migrations.AddField(
            model_name='dayrollup',
            name='first_token_us',
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name='dayrollup',
            name='first_tokens',
            field=endpoints.fields.LineField(null=True),
        ),
        migrations.AddField(
            model_name='dayrollup',
            name='requests_rejected',
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name='minuterollup',
            name='durations',
            field=endpoints.fields.LineField(null=True),
        ),
        migrations.AddField(
            model_name='minuterollup',
            name='first_token_us',
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddField(
            model_name='minuterollup',
            name='first_tokens',
            field=endpoints.fields.LineField(null=True),
        ),
        migrations.AddField(
            model_name='minuterollup',
            name='requests_rejected',
            field=models.BigIntegerField(null=True),
        ),
        migrations.AddIndex(
            model_name='requesthistory',
            index=models.Index(condition=models.Q(('outcome', None)), fields=['completed_at'], name='history_adopted'),
        ),
    ]
