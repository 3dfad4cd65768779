"""Result of a health check."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one health check. A success without latency (ms) rests on the endpoint's traffic.

    `remark`: what an administrator must do about an endpoint that is up, such as to store another API key.
    """

    success: bool
    latency_ms: int | None
    error: str | None
    checked_at: datetime
    remark: str | None = None
