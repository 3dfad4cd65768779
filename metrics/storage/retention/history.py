"""The moment before which history rows were deleted. A longer retention later brings none of them back.

Releases that did not store it kept seven days, if no other number was set.
"""

from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.utils import timezone

from metrics.storage.settings_rows import HISTORY_BEFORE, store_setting, stored_setting

FORMER_DAYS = 7  # the default of releases that stored no moment


def note_deleted_before(cutoff: datetime) -> None:
    """Store the moment before rows are deleted: from then on, reads expect none before it."""
    store_setting(HISTORY_BEFORE, max(cutoff, deleted_before()).astimezone(UTC).isoformat())


def deleted_before() -> datetime:
    """Return the moment since which all history rows are there."""
    stored = stored_setting(HISTORY_BEFORE)
    try:
        moment = datetime.fromisoformat(stored or "")
    except ValueError:
        moment = timezone.now() - timedelta(days=min(FORMER_DAYS, settings.ROUTERDASH.history_retention_days))
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
