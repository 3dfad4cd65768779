"""Error responses. All errors of /api have the shape `{"error": "a sentence"}`, with `fields` for invalid input."""

import logging
import sys
from typing import Any, NotRequired, TypedDict

from django.core.exceptions import PermissionDenied
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import DataError, Error
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from rest_framework.exceptions import APIException, ErrorDetail, ValidationError
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.views import exception_handler

from access.middleware import ViewHook

log = logging.getLogger(__name__)

DATABASE_REJECTS = _("The database rejects one of these values.")
NO_SUCH_REQUEST = _("The history contains no request with this id. It may be older than the retention period.")
DATABASE_UNAVAILABLE = _("The database is currently unavailable; the figures on the overview are still updated.")


def api_error(error: Exception, context: dict[str, Any]) -> Response | None:
    """Handle exceptions for DRF: return the error response, or None to raise the exception again."""
    response = _error_response(error, context)
    if response is not None:
        # The view of the schema would render even its error responses as OpenAPI.
        context["request"].accepted_renderer = JSONRenderer()
        context["request"].accepted_media_type = "application/json"
    return response


def _error_response(error: Exception, context: dict[str, Any]) -> Response | None:
    if isinstance(error, Error):
        log.warning("%s: the database returned an error: %s", context["request"].path, error)
        if _is_refusal(error):
            return Response({"error": DATABASE_REJECTS}, status=400)
        return Response({"error": DATABASE_UNAVAILABLE}, status=503)
    if isinstance(error, DjangoValidationError):
        error = ValidationError(error.message_dict if hasattr(error, "error_dict") else {"error": error.messages})
    response = exception_handler(error, context)
    if response is None:
        return None
    if isinstance(error, ValidationError):
        response.data = _explain(error)
    elif isinstance(error, Http404):
        response.data = {"error": _("Not found")}
    elif isinstance(error, PermissionDenied):
        response.data = {"error": _("Forbidden")}
    elif isinstance(error, APIException):
        response.data = {"error": str(error.detail)}
    # The client receives the error. Django would also log an endpoint's failure as an error of RouterDash.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def _is_refusal(error: Error) -> bool:
    """Return True if the database is available but rejects the given values.

    PostgreSQL reports this by SQLSTATE: class 22 (data exception) or 54 (program limit exceeded).
    """
    state = getattr(error.__cause__, "sqlstate", None) or ""
    return isinstance(error, DataError) or state.startswith(("22", "54"))


class ErrorPayload(TypedDict):
    """Body of an error response. `fields` has the messages of each invalid field."""

    error: str
    fields: NotRequired[dict[str, list[str]]]


def _explain(error: ValidationError) -> ErrorPayload:
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
    return [text.encode("utf-8", "replace").decode()]  # a quoted value may contain half a surrogate pair


# Django's handlers for requests without a response from a view.


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    reason: str | Promise = ""
    if _shows_menu(request):
        match = request.resolver_match
        is_request = match is not None and match.url_name == "request"
        reason = NO_SUCH_REQUEST if is_request else _("Check the address, or use the search.")
    return _page(request, 404, _("Not found"), reason)


def server_error(request: HttpRequest) -> HttpResponse:
    """Return error 500, or 503 if the database failed outside of any view (the look-up of the session's user)."""
    if isinstance(sys.exc_info()[1], Error):
        return _page(request, 503, DATABASE_UNAVAILABLE)
    return _page(request, 500, _("Internal server error"))


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    reason: str | Promise = ""
    if _shows_menu(request) and getattr(request.user, "is_staff", False):
        reason = _("Nobody may do this here, administrators included.")
    elif _shows_menu(request):
        reason = _("Only administrators may open this page. Ask an administrator of this RouterDash.")
    return _page(request, 403, _("Forbidden"), reason)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    text = _("The form has expired. Reload its page and submit it again.")
    return _page(request, 403, _("The CSRF check failed; reload the page"), text)


def _page(request: HttpRequest, status: int, text: str | Promise, reason: str | Promise = "") -> HttpResponse:
    """Return the error as JSON below /api, else as a page. `reason` says on the page what to do.

    The page of a missing or forbidden one has the menu for users who are logged in. All others need neither session
    nor database.
    """
    if request.path.startswith("/api/"):
        return JsonResponse({"error": text}, status=status)
    has_menu = status in (403, 404) and _shows_menu(request)
    template = "error_in_shell.html" if has_menu else "error.html"
    log_in = status in (403, 404) and not has_menu
    return render(request, template, {"status": status, "reason": reason, "log_in": log_in}, status=status)


def _shows_menu(request: HttpRequest) -> bool:
    """Return True for a user whom the menu leads anywhere. Without the database, a session may not be readable."""
    try:
        user = getattr(request, "user", None)
        return bool(user is not None and user.is_authenticated and not user.must_change_password)
    except Error:
        return False


class DatabaseUnavailable(ViewHook):
    """Middleware that returns an error page with status 503 if a view fails because the database is unavailable."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, Error):
            return None
        log.warning("%s: the database returned an error: %s", request.path, exception)
        if _is_refusal(exception):
            return _page(request, 400, DATABASE_REJECTS)
        return _page(request, 503, DATABASE_UNAVAILABLE)
