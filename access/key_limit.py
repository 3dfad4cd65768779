"""How many API keys a user may have: every key costs each process memory, and each change of one a reload of all."""

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import connection
from django.utils.translation import ngettext

from access.models import ApiKey, User
from access.sessions import sessions
from gateway.bounds import KEYS_PER_USER


def check_room(owner: User) -> None:
    """Raises ValidationError where the owner has as many as allowed. In a transaction, it waits for others that ask."""
    most = settings.ROUTERDASH.max_keys_per_user
    if not most:
        return
    if connection.in_atomic_block:  # SQLite's transactions wait for each other anyway
        User.objects.select_for_update().filter(pk=owner.pk).first()
    if ApiKey.objects.filter(created_by=owner.pk).count() < most:
        return
    sessions.hits.hit(KEYS_PER_USER)
    text = ngettext(
        "A user may have at most %(most)d API key; delete one that is not used any more.",
        "A user may have at most %(most)d API keys; delete one that is not used any more.",
        most,
    )
    raise ValidationError(text % {"most": most}, code="too_many_keys")
