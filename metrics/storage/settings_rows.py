"""Rows of the table `settings`, which llmlb uses too."""

from datetime import UTC, date

from django.utils import timezone

from metrics.models import Setting

# Requests whose addresses were removed have this address in the roll-ups (metrics.storage.address_retention).
REMOVED_ADDRESS = ""
# Progress of that removal: days of UTC. Requests that ended before the first have no address, or are losing it.
REMOVING_BEFORE, REMOVED_BEFORE = OWN_KEYS = ("client_addresses_forgotten_before", "client_addresses_gone_before")


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
