"""Middleware for sessions and for passwords that must be changed.

A user with a generated password can open only the page that changes it. The API checks this in access.permissions.
"""

from collections.abc import Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect

from access.sessions.engine import UPDATED, SessionStore, is_outdated
from access.sessions.store import Client
from gateway.health_paths import LIVENESS, READINESS

_OPEN = ("/login", "/logout", "/account/", "/static/", "/api/", "/metrics", "/i18n/", *LIVENESS, *READINESS)


PLAIN_COOKIE = "routerdash_session"  # name of the cookie without HTTPS; earlier releases used it with HTTPS too


class SessionMiddleware(DjangoSessionMiddleware):
    """Session middleware that deletes an invalid cookie only after the login page has shown the reason."""

    def process_request(self, request: HttpRequest) -> None:
        client = Client(request.META.get("REMOTE_ADDR", ""), request.headers.get("User-Agent", ""))
        cookie = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
        request.session = SessionStore(cookie, client)
        if cookie is None and is_outdated(request.COOKIES.get(PLAIN_COOKIE, "")):
            request.session.invalid_reason = UPDATED

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        session = request.session
        assert isinstance(session, SessionStore)
        processed = super().process_response(request, response)
        name = settings.SESSION_COOKIE_NAME
        if session.invalid_reason and not _is_login(request):
            processed.cookies.pop(name, None)
        elif session.invalid_reason == UPDATED and name != PLAIN_COOKIE:
            processed.delete_cookie(PLAIN_COOKIE)
        if response.streaming and session.accessed:
            response.session_id = session.id  # type: ignore[attr-defined]  # routerdash.web.asgi ends the stream with the session
        return processed


def _is_login(request: HttpRequest) -> bool:
    return request.resolver_match is not None and request.resolver_match.url_name == "login"


class ViewHook:
    """Base of middleware that has only view hooks, so it needs no separate thread in an async stack."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)


class PasswordChangeRequired(ViewHook):
    """Middleware that redirects a user with a password to change to the page for this."""

    def process_view(self, request: HttpRequest, *args: object) -> HttpResponseBase | None:
        if request.path.startswith(_OPEN) or not request.user.is_authenticated:
            return None
        if request.user.must_change_password:
            return redirect("password-change")
        return None
