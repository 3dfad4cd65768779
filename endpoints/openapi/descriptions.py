"""Decorator of API operations for the OpenAPI schema.

Their descriptions reach drf-spectacular when the schema is made: what it imports takes 5 MiB, and few installations
ever show their schema.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

View = TypeVar("View", bound=Callable[..., Any])

RESPONSES: dict[Callable[..., Any], Any] = {}  # the argument `responses` by view; tests compare all responses with it
_waiting: list[tuple[Callable[..., Any], dict[str, Any]]] = []
_lock = threading.Lock()


def extend_schema(**description: Any) -> Callable[[View], View]:
    """Describe an operation by the arguments of drf-spectacular's decorator of the same name.

    `responses` may be the type of a payload, `list[…]` of it, or a dictionary of these by status.
    """

    def describe(view: View) -> View:
        if "responses" in description:
            RESPONSES[view] = description["responses"]
        _waiting.append((view, description))
        return view

    return describe


def apply_descriptions() -> None:
    """Pass all descriptions to drf-spectacular, which must happen before it makes a schema."""
    from drf_spectacular import utils

    from endpoints.openapi.payload_schemas import with_serializers

    with _lock:
        for view, description in _waiting:
            if view in RESPONSES:
                description["responses"] = with_serializers(RESPONSES[view])
            utils.extend_schema(**description)(view)
        _waiting.clear()
