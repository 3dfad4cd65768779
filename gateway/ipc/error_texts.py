"""Error texts of records that everyone may see: those of causes (gateway.base.causes).

Earlier releases recorded the error messages of endpoints, and so did llmlb. Of such rows, and of such records in
journals, only the status is shown.
"""

from functools import lru_cache

from gateway.base.causes import HIDDEN_ERROR, read
from gateway.ipc import record

# Outcomes whose texts RouterDash itself has always written.
_OWN = frozenset((record.OK, record.CANCELLED, record.NO_ENDPOINT, record.QUEUE, record.TRUNCATED))
MAX_CAUSES = 4  # one within the other
_FREE = frozenset(("model", "path"))  # parameters whose values may be any text


@lru_cache(maxsize=4096)
def is_own_text(text: str) -> bool:
    """Return True if everyone may see this text of a request, or an attempt, that an endpoint failed or refused."""
    for _ in range(MAX_CAUSES):
        cause = read(text)
        if cause is None or not _FREE.isdisjoint(cause.values):
            return False
        if "cause" not in cause.values:
            return True
        text = cause.values["cause"]
    return False


def shown(outcome: str | None, text: str | None, status: int | None) -> str | None:
    """Return the text that everyone may see.

    `outcome` is None for a request that llmlb recorded; `status` is None or 0 if no HTTP status was recorded.
    """
    if text is None or outcome in _OWN or is_own_text(text):
        return text
    return f"HTTP {status}" if status else HIDDEN_ERROR
