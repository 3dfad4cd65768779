"""Comparison of JSON with the type of a payload, and of all responses that tests get with their declared types."""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)
from unittest.mock import patch

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from endpoints.openapi.descriptions import RESPONSES
from endpoints.openapi.payload_fields import Choices, Format, Schema

READERS: dict[Format, Callable[[str], object]] = {
    Format.UUID: uuid.UUID,
    Format.TIME: datetime.fromisoformat,
    Format.DATE: date.fromisoformat,
}
TYPES: dict[Any, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    str: (str,),
    bool: (bool,),
    NoneType: (NoneType,),
}


def differences(value: Any, hint: Any, path: str = "") -> list[str]:
    """Return what a JSON value lacks, or has too much, for a payload with this type; empty if it agrees."""
    while (origin := get_origin(hint)) in (NotRequired, Required):
        (hint,) = get_args(hint)
    if hint is Any:
        return []
    if origin in (Union, UnionType):
        by_kind = [differences(value, kind, path) for kind in get_args(hint)]
        return [] if [] in by_kind else by_kind[0]
    if origin is Annotated:
        return _of_marks(value, hint, path)
    if is_typeddict(hint):
        return _of_payload(value, hint, path)
    if origin is list:
        (item,) = get_args(hint)
        if not isinstance(value, list):
            return [f"{path or 'the value'} is no list"]
        return [text for row in value for text in differences(row, item, f"{path}[]")]
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            return [f"{path} is no object"]
        return [text for name, one in value.items() for text in differences(one, get_args(hint)[1], f"{path}.{name}")]
    kinds = TYPES[hint]
    is_right = isinstance(value, kinds) and isinstance(value, bool) == (hint is bool)
    return [] if is_right else [f"{path} is {value!r}, not {hint.__name__}"]


def _of_marks(value: Any, hint: Any, path: str) -> list[str]:
    if any(isinstance(mark, Schema) for mark in hint.__metadata__):
        return []
    problems = differences(value, hint.__origin__, path)
    if problems or value is None:
        return problems
    for mark in hint.__metadata__:
        if isinstance(mark, Choices) and value not in [one if isinstance(one, str) else one[0] for one in mark.values]:
            return [f"{path} is {value!r}, none of its choices"]
        if isinstance(mark, Format):
            try:
                READERS[mark](value)
            except ValueError:
                return [f"{path} is {value!r}, no {mark.value}"]
    return []


def _of_payload(value: Any, payload: Any, path: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path or 'the value'} is no object"]
    hints = get_type_hints(payload, include_extras=True)
    prefix = f"{path}." if path else ""
    missing = [f"{prefix}{name} is missing" for name in sorted(payload.__required_keys__ - value.keys())]
    unknown = [f"{prefix}{name} is not declared" for name in sorted(value.keys() - hints.keys())]
    wrong = [
        text
        for name, hint in hints.items()
        if name in value
        for text in differences(value[name], hint, f"{prefix}{name}")
    ]
    return [*missing, *unknown, *wrong]


def is_payload(declared: Any) -> bool:
    """Return True for the type of a payload, or a list of it; False for a serializer."""
    return is_typeddict(declared) or (get_origin(declared) is list and is_typeddict(get_args(declared)[0]))


def _compare(response: Response, declared: Any) -> None:
    if isinstance(declared, dict):
        declared = declared.get(response.status_code)
    if 200 <= response.status_code < 300 and is_payload(declared) and "json" in response.headers["Content-Type"]:
        problems = differences(json.loads(response.content), declared)
        assert not problems, f"the response differs from {declared}: {problems[:10]}"


@contextmanager
def compared_responses() -> Iterator[None]:
    """Fail if a view responds with a field that its declared payload lacks, or without one that it has."""
    finalize = APIView.finalize_response

    def finalize_and_compare(view: Any, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = finalize(view, request, response, *args, **kwargs)
        method: Any = getattr(view, (request.method or "").lower(), None)
        declared = RESPONSES.get(getattr(method, "__func__", None))  # type: ignore[arg-type]
        if isinstance(response, Response) and declared is not None:
            response.add_post_render_callback(lambda rendered: _compare(rendered, declared))
        return response

    with patch.object(APIView, "finalize_response", finalize_and_compare):
        yield
