"""Middleware for the headers of every response to a browser, and for the time zone of pages."""

import zoneinfo
from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone

POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)

GetResponse = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


# Features of browsers that no page uses.
DISABLED_FEATURES = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"
NOT_STORED = ("/api/", "/metrics")  # no cache stores figures and keys, unless a view permits it


class ContentSecurityPolicy:
    """Middleware that adds the Content-Security-Policy and the other headers of every response.

    The policy permits nothing from other hosts and nothing inline.
    """

    sync_capable = async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self._async = iscoroutinefunction(get_response)
        if self._async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        response = self.get_response(request)
        if isinstance(response, HttpResponseBase):
            return _with_headers(request, response)
        return self._later(request, response)

    async def _later(self, request: HttpRequest, response: Awaitable[HttpResponseBase]) -> HttpResponseBase:
        return _with_headers(request, await response)


def _with_headers(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    headers = response.headers
    headers.setdefault("Content-Security-Policy", POLICY)
    headers.setdefault("Permissions-Policy", DISABLED_FEATURES)
    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    if request.path.startswith(NOT_STORED):
        headers.setdefault("Cache-Control", "no-store")
    if settings.ROUTERDASH.https and settings.SECURE_HSTS_SECONDS:
        # Django sends this header only if the request came by HTTPS. An untrusted proxy cannot report that it did.
        headers.setdefault("Strict-Transport-Security", f"max-age={settings.SECURE_HSTS_SECONDS}")
    return response


ZONE_COOKIE = "routerdash_zone"


class ViewersZone:
    """Middleware that activates the time zone of the viewer for the times on pages.

    The browser stores the zone in a cookie (static/js/theme.js); the default is the zone of the server. Days of
    figures are always counted in the zone of the server.
    """

    sync_capable = async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        zone = _zone(request.COOKIES.get(ZONE_COOKIE, ""))
        if zone is None:
            timezone.deactivate()
        else:
            timezone.activate(zone)  # in the context of this request only
        return self.get_response(request)


def _zone(name: str) -> zoneinfo.ZoneInfo | None:
    try:
        return zoneinfo.ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError):  # unknown zone, or invalid name
        return None
