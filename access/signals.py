"""Every save or delete of a user or key: counted for other processes, read again on commit. What a user did stays."""

from typing import Any

from django.contrib.admin.models import LogEntry
from django.contrib.auth.signals import user_logged_in
from django.db import transaction
from django.db.models.signals import post_delete, post_save, pre_delete
from django.dispatch import receiver

from access.directory import access
from access.models import ApiKey, User
from endpoints import changes


@receiver([post_save, post_delete], sender=User, dispatch_uid="access.user_changed")
@receiver([post_save, post_delete], sender=ApiKey, dispatch_uid="access.key_changed")
def changed(update_fields: frozenset[str] | None = None, **kwargs: Any) -> None:
    """A login's time stamp alone concerns nobody else."""
    if update_fields is None or set(update_fields) != {"last_login"}:
        changes.bump(changes.ACCESS)
        transaction.on_commit(access.reload_if_possible)


@receiver(pre_delete, sender=User, dispatch_uid="access.user_goes")
def keep_the_log(instance: User, **kwargs: Any) -> None:
    """Django would delete it with them: when an endpoint was drained or disabled, and by how much that counts in its
    uptime, would not be known any more.
    """
    entries = LogEntry.objects.filter(user=instance)
    if entries.exists():
        entries.update(user=User.objects.nobody())


# Django connects a handler that stores the time of login and lets the login fail if it cannot: ours is in backends.
user_logged_in.disconnect(dispatch_uid="update_last_login")
