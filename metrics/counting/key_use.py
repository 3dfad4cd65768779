"""Use of API keys in a batch: the latest request of each, and its rejected requests by reason."""

from collections import Counter

from gateway.ipc import record
from metrics.counting.cells import MINUTE_US, local_date
from metrics.counting.fold import Fold

RefusedKey = tuple[str, str, str, str]  # local date, API key, error code, limit


def last_uses(fold: Fold) -> dict[str, int]:
    """Return when the latest request of each API key completed, in µs. A rejected request is no use."""
    last_used: dict[str, int] = {}
    for entry in fold.counted:
        if entry.api_key_id and entry.outcome != record.REJECTED:
            last_used[entry.api_key_id] = max(entry.completed_us, last_used.get(entry.api_key_id, 0))
    return last_used


def refusals(fold: Fold) -> Counter[RefusedKey]:
    """Return the number of rejected requests."""
    counts: Counter[RefusedKey] = Counter()
    for entry in fold.counted:
        if entry.outcome == record.REJECTED:
            date = local_date(entry.completed_us // MINUTE_US, fold.zone)
            counts[date, entry.api_key_id or "", entry.error or "", entry.limit or ""] += entry.count
    return counts
