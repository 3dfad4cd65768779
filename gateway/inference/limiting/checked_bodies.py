"""Which requests have a body that every server must read as RouterDash does (gateway.dialects.deciding_fields).

All others are forwarded without that check.
"""

from gateway.inference.request import InferenceRequest
from gateway.registry.reader import StoreUnreadable


def is_restricted(request: InferenceRequest) -> bool:
    """Return True if the request's API key has rules, or limits or budgets of any level apply to it."""
    key = request.exchange.api_key
    if key is not None and key.allowed is not None:
        return True
    try:
        return request.services.limits.of(key) is not None
    except StoreUnreadable:
        return True  # and it is refused as soon as its limits are needed
