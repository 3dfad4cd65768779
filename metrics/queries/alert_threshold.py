"""Number of requests in an hour from which a client is marked."""

from metrics.storage.settings_rows import stored_setting

THRESHOLD = "ip_alert_threshold"  # key of the setting, in llmlb too
DEFAULT_THRESHOLD = 100


def threshold() -> int:
    return effective(stored_setting(THRESHOLD))


def parse_threshold(text: str) -> int | None:
    """Return a threshold as a user wrote it; None if it cannot be one."""
    text = text.strip()
    return int(text) if 1 <= len(text) <= 18 and text.isascii() and text.isdigit() and int(text) else None


def effective(stored: str | None) -> int:
    """Return the threshold that a stored text means: llmlb's row may hold anything."""
    return parse_threshold(stored or "") or DEFAULT_THRESHOLD


def shown_setting(key: str) -> str:
    """Return the stored text of any setting, empty if there is none; for the threshold, its effective value."""
    stored = stored_setting(key)
    return str(effective(stored)) if key == THRESHOLD else (stored or "")
