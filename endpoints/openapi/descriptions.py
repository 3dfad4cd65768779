"""Decorator of API operations for the OpenAPI schema.

Their descriptions reach drf-spectacular when the schema is made: what it imports takes 5 MiB, and few installations
ever show their schema.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

View = TypeVar("View", bound=Callable[..., Any])

_waiting: list[tuple[Callable[..., Any], dict[str, Any]]] = []
_lock = threading.Lock()


def extend_schema(**description: Any) -> Callable[[View], View]:
    """Describe an operation by the arguments of drf-spectacular's decorator of the same name."""

    def describe(view: View) -> View:
        _waiting.append((view, description))
        return view

    return describe


def apply_descriptions() -> None:
    """Pass all descriptions to drf-spectacular, which must happen before it makes a schema."""
    from drf_spectacular import utils

    with _lock:
        for view, description in _waiting:
            utils.extend_schema(**description)(view)
        _waiting.clear()
