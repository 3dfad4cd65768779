"""Parts that several modules of the API share."""

from collections.abc import Iterable
from typing import Any

from django.utils.translation import gettext as _
from rest_framework import serializers
from rest_framework.exceptions import APIException
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request

from gateway.base import bounds
from metrics.exports.downloads import MAX_PER_USER, RETRY_SECONDS, ExportBoundReached

NO_CONVERSATION = "The history has no conversation with this key. Older requests are deleted."
NO_REQUEST = "The history has no request with this id. Older requests are deleted."


class QuerySerializer(serializers.Serializer[Any]):
    """Parameters of a URL's query. An unknown name is an error, as it would silently filter nothing."""

    def to_internal_value(self, data: Any) -> Any:
        if unknown := sorted(set(data) - set(self.fields)):
            available = ", ".join(sorted(self.fields))
            text = _("This parameter does not exist; available: %(names)s") % {"names": available}
            raise serializers.ValidationError({name: [text] for name in unknown})
        return super().to_internal_value(data)


def checked(serializer: type[QuerySerializer], request: Request, *, beside: Iterable[str] = (), **context: Any) -> Any:
    """Return the valid query of a request, without the parameters `beside` it. Raises ValidationError."""
    parameters = {name: value for name, value in request.query_params.items() if name not in {*beside}}
    query = serializer(data=parameters, context=context)
    query.is_valid(raise_exception=True)
    return query


class OneFormat(BaseContentNegotiation):
    """Content negotiation of a view with a single format, which is sent regardless of the `Accept` header."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class BadRequest(APIException):
    status_code = 400


class TooManyExports(APIException):
    """Too many exports run. Sent with `Retry-After`."""

    status_code = 429
    wait = RETRY_SECONDS
    default_detail = "The limit of concurrent exports is reached; try again in a moment."

    @classmethod
    def of(cls, full: ExportBoundReached) -> "TooManyExports":
        if full.bound is bounds.USER_EXPORTS:
            return cls(f"You already have {MAX_PER_USER} exports running, which is the limit; try again in a moment.")
        return cls()
