"""Signal handlers for changes of users and API keys.

Each save or delete refreshes the directory of this process on commit; triggers of the database log it for other
processes (endpoints.changes). The log entries of a deleted user stay.
"""

from typing import Any

from django.contrib.admin.models import LogEntry
from django.contrib.auth.signals import user_logged_in
from django.db import transaction
from django.db.models.signals import post_delete, post_save, pre_delete
from django.dispatch import receiver

from access.directory import access
from access.models import ApiKey, User


@receiver([post_save, post_delete], sender=User, dispatch_uid="access.user_changed")
def user_changed(instance: User, update_fields: frozenset[str] | None = None, **kwargs: Any) -> None:
    """Refresh the user and the user's keys on commit, unless only the time of a login has changed."""
    if update_fields is None or set(update_fields) != {"last_login"}:
        user_id = str(instance.pk)
        transaction.on_commit(lambda: access.refresh(user_ids=(user_id,)))


@receiver([post_save, post_delete], sender=ApiKey, dispatch_uid="access.key_changed")
def key_changed(instance: ApiKey, **kwargs: Any) -> None:
    hashed = instance.key_hash
    transaction.on_commit(lambda: access.refresh(hashes=(hashed,)))


@receiver(pre_delete, sender=User, dispatch_uid="access.user_deleted")
def reassign_log_entries(instance: User, **kwargs: Any) -> None:
    """Assign the log entries of a deleted user to the user `nobody`.

    Django would delete them with the user. They record when an endpoint was drained or disabled, which the
    calculation of its uptime needs.
    """
    entries = LogEntry.objects.filter(user=instance)
    if entries.exists():
        entries.update(user=User.objects.deleted_user())


# Django's handler fails the login if it cannot store its time; access.backends has a handler that does not.
user_logged_in.disconnect(dispatch_uid="update_last_login")
