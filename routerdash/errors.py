"""One error shape on /api: `{"error": "a sentence"}`, and `fields` beside it where input was wrong."""

import logging
import sys
from typing import Any

from django.core.exceptions import PermissionDenied
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import DataError, Error
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from rest_framework.exceptions import APIException, ErrorDetail, ValidationError
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.views import exception_handler

from access.middleware import ViewHook

log = logging.getLogger(__name__)

DATABASE_REFUSES = "The database does not take one of these values."
DATABASE_AWAY = "The database is not available just now; figures on the overview go on."


def api_error(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's exception handler."""
    response = _answer(error, context)
    if response is not None:
        # The schema's view would write even its refusals as OpenAPI.
        context["request"].accepted_renderer = JSONRenderer()
        context["request"].accepted_media_type = "application/json"
    return response


def _answer(error: Exception, context: dict[str, Any]) -> Response | None:
    if isinstance(error, Error):
        log.warning("%s: the database failed: %s", context["request"].path, error)
        if _is_refusal(error):
            return Response({"error": DATABASE_REFUSES}, status=400)
        return Response({"error": DATABASE_AWAY}, status=503)
    if isinstance(error, DjangoValidationError):
        error = ValidationError(error.message_dict if hasattr(error, "error_dict") else {"error": error.messages})
    response = exception_handler(error, context)
    if response is None:
        return None
    if isinstance(error, ValidationError):
        response.data = _explain(error)
    elif isinstance(error, Http404):
        response.data = {"error": "Not found"}
    elif isinstance(error, PermissionDenied):
        response.data = {"error": "Forbidden"}
    elif isinstance(error, APIException):
        response.data = {"error": str(error.detail)}
    # Told to who asked; Django would log what a server of theirs did as an error of ours.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def _is_refusal(error: Error) -> bool:
    """Is the database there, and does not take what it was given? By SQLSTATE: data exception, limit exceeded."""
    state = getattr(error.__cause__, "sqlstate", None) or ""
    return isinstance(error, DataError) or state.startswith(("22", "54"))


def _explain(error: ValidationError) -> dict[str, Any]:
    detail = error.detail
    if not isinstance(detail, dict):
        return {"error": " ".join(_texts(detail))}
    fields = {str(name): _texts(texts) for name, texts in detail.items()}
    name, texts = next(iter(fields.items()))
    general = name in ("error", "non_field_errors", "__all__")
    return {"error": texts[0] if general else f"{name}: {texts[0]}", "fields": fields}


def _texts(detail: Any) -> list[str]:
    if isinstance(detail, list):
        return [text for item in detail for text in _texts(item)]
    if isinstance(detail, dict):
        return [text for item in detail.values() for text in _texts(item)]
    text = str(detail) if isinstance(detail, ErrorDetail | str) else repr(detail)
    return [text.encode("utf-8", "replace").decode()]  # a value that is quoted may hold half a surrogate pair


# Django's handlers for what no view answered.


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _page(request, 404, "Not found")


def server_error(request: HttpRequest) -> HttpResponse:
    """Also for a database that fails outside of any view: when the session's user is looked up, say."""
    if isinstance(sys.exc_info()[1], Error):
        return _page(request, 503, DATABASE_AWAY)
    return _page(request, 500, "Internal server error")


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return _page(request, 403, "Forbidden")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    return _page(request, 403, "CSRF check failed; load the page again")


def _page(request: HttpRequest, status: int, text: str) -> HttpResponse:
    """JSON for scripts, a page for people. The page needs neither session nor database."""
    if request.path.startswith("/api/"):
        return JsonResponse({"error": text}, status=status)
    return render(request, "error.html", {"status": status}, status=status)


class DatabaseAway(ViewHook):
    """Middleware: a page that needs the database says so, with 503, when that is away."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, Error):
            return None
        log.warning("%s: the database failed: %s", request.path, exception)
        if _is_refusal(exception):
            return _page(request, 400, DATABASE_REFUSES)
        return _page(request, 503, DATABASE_AWAY)
