"""Sessions of requests; and a generated password opens nothing but the page that changes it (the API says so by itself,
in access.permissions).
"""

from collections.abc import Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect

from access.session_engine import LOCAL_COOKIE, UPDATED, SessionStore, is_outdated, local_session
from access.sessions import Client

_OPEN = ("/login", "/logout", "/account/", "/static/", "/api/", "/metrics", "/health", "/ready", "/i18n/")


FORWARDED = "HTTP_X_ROUTERDASH_CLIENT"  # every request that a gateway passes on has it (gateway.forward)
PLAIN_COOKIE = "routerdash_session"  # what the cookie is called without HTTPS, and was called with it before


class SessionMiddleware(DjangoSessionMiddleware):
    """A cookie that opens nothing stays with the browser until the login page has said why."""

    def process_request(self, request: HttpRequest) -> None:
        if LOCAL_COOKIE in request.COOKIES and FORWARDED not in request.META:
            session = local_session(request.COOKIES[LOCAL_COOKIE])
            if session is not None:
                request.session = session
                return
        client = Client(request.META.get("REMOTE_ADDR", ""), request.headers.get("User-Agent", ""))
        cookie = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
        request.session = SessionStore(cookie, client)
        if cookie is None and is_outdated(request.COOKIES.get(PLAIN_COOKIE, "")):
            request.session.why = UPDATED

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        session = request.session
        assert isinstance(session, SessionStore)
        answer = super().process_response(request, response)
        name = settings.SESSION_COOKIE_NAME
        if session.why and not _is_login(request):
            answer.cookies.pop(name, None)
        elif session.why == UPDATED and name != PLAIN_COOKIE:
            answer.delete_cookie(PLAIN_COOKIE)
        if response.streaming and session.accessed:
            response.session_id = session.id  # type: ignore[attr-defined]  # routerdash.asgi ends it with the session
        return answer


def _is_login(request: HttpRequest) -> bool:
    return request.resolver_match is not None and request.resolver_match.url_name == "login"


class ViewHook:
    """A middleware that only looks in around the view: it needs no thread of its own in an async stack."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)


class PasswordChangeRequired(ViewHook):
    """Sends a user who must change the password to where that is done."""

    def process_view(self, request: HttpRequest, *args: object) -> HttpResponseBase | None:
        if request.path.startswith(_OPEN) or not request.user.is_authenticated:
            return None
        if request.user.must_change_password:
            return redirect("password-change")
        return None
