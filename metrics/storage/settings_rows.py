"""Rows of the table `settings`, which llmlb uses too."""

from datetime import UTC, date

from django.utils import timezone

from metrics.models import Setting

# Requests whose addresses were removed have this address in the roll-ups (metrics.storage.retention.addresses).
REMOVED_ADDRESS = ""
# Progress of that removal: days of UTC. Requests that ended before the first have no address, or are losing it.
REMOVING_BEFORE, REMOVED_BEFORE = ("client_addresses_forgotten_before", "client_addresses_gone_before")
BODIES_BEFORE = "bodies_gone_before"  # a day of UTC: bodies of requests that ended before it were deleted
HISTORY_BEFORE = "history_gone_before"  # a moment (ISO): history rows of requests that ended before it were deleted
OWN_KEYS = (REMOVING_BEFORE, REMOVED_BEFORE, BODIES_BEFORE, HISTORY_BEFORE)


def stored_setting(key: str) -> str | None:
    return Setting.objects.filter(key=key).values_list("value", flat=True).first()


def store_setting(key: str, value: str) -> None:
    Setting.objects.update_or_create(
        key=key, defaults={"value": value, "updated_at": timezone.now().astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")}
    )


def stored_day(key: str) -> date | None:
    """Return the day under a key; None if there is none, or none that can be parsed."""
    try:
        return date.fromisoformat(stored_setting(key) or "")
    except ValueError:
        return None
