"""Serializers of payload types, for the OpenAPI schema: a payload is sent as it is.

endpoints.openapi.payload_fields says how the fields of a payload are declared.
"""

from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from endpoints.openapi.payload_fields import Choices, Format, Help, Schema

SerializerField = serializers.Field[Any, Any, Any, Any]

_OF_TYPES: dict[Any, type[SerializerField]] = {
    Any: serializers.JSONField,
    bool: serializers.BooleanField,
    float: serializers.FloatField,
    int: serializers.IntegerField,
    str: serializers.CharField,
}
_OF_FORMATS: dict[Format, type[SerializerField]] = {
    Format.DATE: serializers.DateField,
    Format.TIME: serializers.DateTimeField,
    Format.UUID: serializers.UUIDField,
}


@cache
def serializer_of(payload: Any) -> type[serializers.Serializer[Any]]:
    """Return the serializer class of a payload type, always the same one. Raises TypeError for an unknown type."""
    name = payload.__name__.removeprefix("_").removesuffix("Payload")
    hints = get_type_hints(payload, include_extras=True)
    fields = {field: _field(hint, required=field in payload.__required_keys__) for field, hint in hints.items()}
    content = {**fields, "__doc__": payload.__doc__, "__module__": payload.__module__}
    return type(f"{name}Serializer", (serializers.Serializer,), content)


def with_serializers(responses: Any) -> Any:
    """Return the argument `responses` of drf-spectacular's `extend_schema`, with serializers instead of payload types.

    A payload type may stand alone, as `list[…]`, or in a dictionary by status.
    """
    if isinstance(responses, Mapping):
        return {status: with_serializers(response) for status, response in responses.items()}
    if is_typeddict(responses):
        return serializer_of(responses)
    if get_origin(responses) is list and is_typeddict(item := get_args(responses)[0]):
        return serializer_of(item)(many=True)
    return responses


def _field(hint: Any, **options: Any) -> Any:
    """Return the field of a type with its marks; `options` are arguments of each field of DRF."""
    marks: dict[type, Any] = {}
    while (origin := get_origin(hint)) in (Annotated, NotRequired, Required, Union, UnionType):
        if origin is Annotated:
            marks = {type(mark): mark for mark in hint.__metadata__} | marks  # the outer one of a kind counts
            hint = hint.__origin__
        elif origin in (NotRequired, Required):
            (hint,) = get_args(hint)
        else:
            if NoneType in get_args(hint):
                options["allow_null"] = True
            kinds = tuple(kind for kind in get_args(hint) if kind is not NoneType)
            hint = kinds[0] if len(kinds) == 1 else kinds  # several kinds need a Schema
    if Help in marks:
        options["help_text"] = marks[Help].text
    if Schema in marks:
        described = extend_schema_field(dict(marks[Schema].content))
        return described(type("DescribedField", (serializers.JSONField,), {}))(**options)
    if Choices in marks:
        return serializers.ChoiceField(marks[Choices].values, **options)
    if Format in marks:
        return _OF_FORMATS[marks[Format]](**options)
    return _of_type(hint, options)


def _of_type(hint: Any, options: dict[str, Any]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        return serializer_of(hint)(**options)
    if origin is Literal:
        return serializers.ChoiceField(arguments, **options)
    if origin is list:
        (item,) = arguments
        if is_typeddict(item):
            return serializer_of(item)(many=True, **options)
        return serializers.ListField(child=_field(item), **options)
    if origin in (dict, Mapping):
        value = arguments[1]
        return (
            serializers.DictField(**options) if value is Any else serializers.DictField(child=_field(value), **options)
        )
    if hint not in _OF_TYPES:
        raise TypeError(f"a field of a payload cannot have the type {hint}")
    return _OF_TYPES[hint](**options)
