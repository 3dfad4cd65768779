"""Use of API keys in a batch: the latest request of each, and its rejected requests by reason."""

from collections import Counter

from gateway.ipc import record
from metrics.counting.cells import MINUTE_US, local_date
from metrics.counting.fold import Fold

RefusedKey = tuple[str, str, str, str]  # local date, API key, error code, limit


def last_uses(fold: Fold) -> dict[str, int]:
    """Return when the latest request of each API key completed, in µs. A rejected request is no use."""
    found: dict[str, int] = {}
    for (_minute, _endpoint, _model, _kind, api_key_id, *_rest), entries, _tokens in fold.groups:
        if api_key_id:
            latest = max([entry.completed_us for entry in entries])
            found[api_key_id] = max(latest, found.get(api_key_id, 0))
    for entry in fold.ungrouped:
        if entry.api_key_id and entry.outcome != record.REJECTED:
            found[entry.api_key_id] = max(entry.completed_us, found.get(entry.api_key_id, 0))
    return found


def refusals(fold: Fold) -> Counter[RefusedKey]:
    """Return the number of rejected requests."""
    return Counter(
        [
            (
                local_date(entry.completed_us // MINUTE_US, fold.zone),
                entry.api_key_id or "",
                entry.error or "",
                entry.limit or "",
            )
            for entry in fold.ungrouped
            if entry.outcome == record.REJECTED
        ]
    )
