"""Headers of every answer to a browser, and the zone in which it reads times."""

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


# What no page of ours uses.
UNUSED = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"
NOT_STORED = ("/api/", "/metrics")  # figures and keys are in no cache, unless a view says otherwise


class ContentSecurityPolicy:
    """Nothing from other hosts, nothing inline; and the other headers that every answer to a browser has."""

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
    headers.setdefault("Permissions-Policy", UNUSED)
    headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    if request.path.startswith(NOT_STORED):
        headers.setdefault("Cache-Control", "no-store")
    if settings.ROUTERDASH.https and settings.SECURE_HSTS_SECONDS:
        # Django tells it where the request came by HTTPS; a proxy that is not trusted cannot say that it did.
        headers.setdefault("Strict-Transport-Security", f"max-age={settings.SECURE_HSTS_SECONDS}")
    return response


ZONE_COOKIE = "routerdash_zone"


class ViewersZone:
    """Pages show times in the zone of their viewer, whose browser names it in a cookie (static/js/shell.js), else in
    the server's. Days of figures stay the server's: they are counted so.
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
            timezone.activate(zone)  # of this request's context: it ends with it
        return self.get_response(request)


def _zone(name: str) -> zoneinfo.ZoneInfo | None:
    try:
        return zoneinfo.ZoneInfo(name) if name else None
    except (KeyError, ValueError, OSError):  # no zone, or no name that could be one
        return None
