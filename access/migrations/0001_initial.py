"""The existing tables, whole. On a database that `adopt` takes over this migration is only marked as done."""

import access.models
import django.db.models.deletion
import django.utils.timezone
import endpoints.fields
import uuid
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='User',
            fields=[
                ('id', endpoints.fields.TextUUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('username', endpoints.fields.LineField(unique=True, verbose_name='username')),
                ('password', access.models.PasswordHashField(db_column='password_hash', verbose_name='password')),
                ('role', endpoints.fields.LineField(choices=[('admin', 'Administrator'), ('viewer', 'Viewer')], default='viewer', verbose_name='role')),
                ('created_at', endpoints.fields.IsoDateTimeField(default=django.utils.timezone.now, verbose_name='created')),
                ('last_login', endpoints.fields.IsoDateTimeField(blank=True, null=True, verbose_name='last login')),
                ('must_change_password', models.BooleanField(db_default=False, default=False, verbose_name='must change password')),
            ],
            options={
                'verbose_name': 'user',
                'verbose_name_plural': 'users',
                'db_table': 'users',
                'ordering': ['username'],
                'constraints': [models.CheckConstraint(condition=models.Q(('role__in', ['admin', 'viewer'])), name='users_role')],
            },
        ),
        migrations.CreateModel(
            name='ApiKey',
            fields=[
                ('id', endpoints.fields.TextUUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('key_hash', endpoints.fields.LineField(editable=False, unique=True)),
                ('name', endpoints.fields.LineField(verbose_name='name')),
                ('created_at', endpoints.fields.IsoDateTimeField(default=django.utils.timezone.now, editable=False, verbose_name='created')),
                ('expires_at', endpoints.fields.ExpiryField(blank=True, null=True, verbose_name='expires')),
                ('scopes', models.TextField(editable=False, null=True)),
                ('key_prefix', endpoints.fields.LineField(editable=False, null=True, verbose_name='key prefix')),
                ('permissions', models.JSONField(blank=True, default=list, null=True, verbose_name='permissions')),
                ('created_by', models.ForeignKey(db_column='created_by', on_delete=django.db.models.deletion.CASCADE, related_name='api_keys', to=settings.AUTH_USER_MODEL, verbose_name='owner')),
            ],
            options={
                'verbose_name': 'API key',
                'verbose_name_plural': 'API keys',
                'db_table': 'api_keys',
                'ordering': ['-created_at'],
                'constraints': [models.UniqueConstraint(fields=('created_by', 'name'), name='api_keys_owner_name', violation_error_message='This user already has an API key with this name.')],
            },
        ),
    ]
