"""Limits and budgets. Nothing in them refers to the tables of keys and users, which llmlb writes too."""

import uuid
from importlib import import_module

from django.db import migrations, models

import endpoints.fields

# Our triggers name these tables, so that they cannot be dropped before them. Each start creates missing triggers.
drop_triggers = import_module('endpoints.migrations.0006_change_log').drop_triggers


class Migration(migrations.Migration):

    dependencies = [
        ('access', '0005_key_rules'),
        ('endpoints', '0006_change_log'),
    ]

    operations = [
        migrations.CreateModel(
            name='BudgetRow',
            fields=[
                ('id', endpoints.fields.TextUUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('level', endpoints.fields.LineField(choices=[('key', 'API key'), ('user', 'user'), ('everyone', 'everyone')], verbose_name='level')),
                ('subject_id', endpoints.fields.LineField(blank=True, db_default='', default='', verbose_name='subject')),
                ('unit', endpoints.fields.LineField(choices=[('tokens', 'tokens'), ('money', 'money')], verbose_name='unit')),
                ('period', endpoints.fields.LineField(choices=[('day', 'day'), ('week', 'week'), ('month', 'month'), ('total', 'in total')], verbose_name='period')),
                ('amount', models.BigIntegerField(verbose_name='amount')),
                ('hard', models.BooleanField(db_default=False, default=False, verbose_name='never exceed')),
                ('refuses_unpriced', models.BooleanField(db_default=False, default=False, verbose_name='refuse models without a price')),
                ('instead', endpoints.fields.LineField(blank=True, db_default='', default='', verbose_name='model instead')),
            ],
            options={
                'verbose_name': 'budget',
                'verbose_name_plural': 'budgets',
                'db_table': 'budgets',
                'ordering': ['level', 'subject_id', 'unit', 'period'],
                'constraints': [models.UniqueConstraint(fields=('level', 'subject_id', 'unit', 'period'), name='budgets_subject'), models.CheckConstraint(condition=models.Q(('level__in', ('key', 'user', 'everyone'))), name='budgets_level'), models.CheckConstraint(condition=models.Q(('unit__in', ('tokens', 'money'))), name='budgets_unit'), models.CheckConstraint(condition=models.Q(('period__in', ('day', 'week', 'month', 'total'))), name='budgets_period'), models.CheckConstraint(condition=models.Q(('amount__gt', 0)), name='budgets_amount')],
            },
        ),
        migrations.CreateModel(
            name='LimitRow',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('level', endpoints.fields.LineField(choices=[('key', 'API key'), ('user', 'user'), ('everyone', 'everyone')], verbose_name='level')),
                ('subject_id', endpoints.fields.LineField(blank=True, db_default='', default='', verbose_name='subject')),
                ('concurrency', models.IntegerField(blank=True, null=True, verbose_name='concurrent requests')),
                ('requests', models.BigIntegerField(blank=True, null=True, verbose_name='requests a minute')),
                ('tokens', models.BigIntegerField(blank=True, null=True, verbose_name='tokens a minute')),
                ('waiting', models.JSONField(blank=True, null=True, verbose_name='wait over the limits')),
            ],
            options={
                'verbose_name': 'limits',
                'verbose_name_plural': 'limits',
                'db_table': 'limits',
                'ordering': ['level', 'subject_id'],
                'constraints': [models.UniqueConstraint(fields=('level', 'subject_id'), name='limits_subject'), models.CheckConstraint(condition=models.Q(('level__in', ('key', 'user', 'everyone'))), name='limits_level'), models.CheckConstraint(condition=models.Q(('concurrency__isnull', True), ('concurrency__gt', 0), _connector='OR'), name='limits_concurrency'), models.CheckConstraint(condition=models.Q(('requests__isnull', True), ('requests__gt', 0), _connector='OR'), name='limits_requests'), models.CheckConstraint(condition=models.Q(('tokens__isnull', True), ('tokens__gt', 0), _connector='OR'), name='limits_tokens')],
            },
        ),
        migrations.RunPython(migrations.RunPython.noop, drop_triggers),
    ]
