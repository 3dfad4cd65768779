"""Bound of API keys per user.

Each key takes memory in every process, and each change of one reloads all keys.
"""

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import connection
from django.utils.translation import ngettext

from access.models import ApiKey, User
from access.sessions.store import sessions
from gateway.base.bounds import KEYS_PER_USER


def check_key_bound(owner: User) -> None:
    """Check that the owner may have one more API key. Raises ValidationError at the bound.

    In a transaction, the row of the owner is locked, so that concurrent checks wait for each other.
    """
    most = settings.ROUTERDASH.max_keys_per_user
    if not most:
        return
    if connection.in_atomic_block:  # SQLite's transactions wait for each other anyway
        User.objects.select_for_update().filter(pk=owner.pk).first()
    if ApiKey.objects.filter(created_by=owner.pk).count() < most:
        return
    sessions.hits.hit(KEYS_PER_USER)
    text = ngettext(
        "A user may have at most %(most)d API key. Delete one that is no longer used.",
        "A user may have at most %(most)d API keys. Delete one that is no longer used.",
        most,
    )
    raise ValidationError(text % {"most": most}, code="too_many_keys")
