"""Triggers of the database that write the change log in the transaction of each change, whichever program makes it.

llmlb's own migrations and Django's copies of SQLite tables drop triggers, so each start creates the missing ones.
"""

from types import ModuleType

from django.db import connection, transaction

from endpoints.changes import postgresql_triggers, sqlite_triggers
from endpoints.changes.models import RegistryChange, RegistryPosition


def ensure() -> bool:
    """Create each missing or different trigger, in one transaction. Raises django.db.Error.

    Return True if all were there. Otherwise the log may lack changes: the position is forgotten too, so that no state
    that was read up to it counts as complete.
    """
    if present():
        return True
    vendor = _vendor()
    with transaction.atomic():
        vendor.wait_for_others()
        RegistryChange.objects.exists()  # SQLite would create triggers for a log that does not exist
        if not (outdated := vendor.find_outdated()):
            return True
        vendor.create(outdated)
        RegistryPosition.objects.all().delete()
    return False


def present() -> bool:
    """Return True if all triggers exist and none is different. Raises django.db.Error."""
    return not _vendor().find_outdated()


def remove() -> None:
    """Drop all triggers of ours; for tests. Raises django.db.Error."""
    with transaction.atomic():
        _vendor().remove()


def _vendor() -> ModuleType:
    return postgresql_triggers if connection.vendor == "postgresql" else sqlite_triggers
