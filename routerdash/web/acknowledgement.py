"""Middleware that responds to a change only when every gateway acts by it.

A deleted API key is refused, and a disabled, drained or deleted endpoint gets no request, from the response on. If a
gateway does not confirm the change in time, the response says so: 202 with the reason in `pending` from the JSON API,
a message on pages.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Iterator

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.translation import gettext

from metrics.memory.runtime import runtime
from routerdash.web.middleware import GetResponse

WAIT_SECONDS = 1.0
STEP_SECONDS = 0.001
_READING = ("GET", "HEAD", "OPTIONS", "TRACE")


class WaitForGateways:
    """The middleware. Requests that publish nothing for the gateways pass at once."""

    sync_capable = async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        before = runtime.installation.revision()
        response = self.get_response(request)
        if not isinstance(response, HttpResponseBase):
            return self._later(request, response, before)
        if _has_published(request, response, before):
            for _ in _waiting():
                time.sleep(STEP_SECONDS)
            return _with_reason(request, response)
        return response

    async def _later(self, request: HttpRequest, coming: Awaitable[HttpResponseBase], before: int) -> HttpResponseBase:
        response = await coming
        if _has_published(request, response, before):
            for _ in _waiting():
                await asyncio.sleep(STEP_SECONDS)
            return _with_reason(request, response)
        return response


def _has_published(request: HttpRequest, response: HttpResponseBase, before: int) -> bool:
    """Return True if this request, or another one meanwhile, has published a change."""
    changes = request.method not in _READING and response.status_code < 400
    return changes and runtime.installation.revision() != before


def _waiting() -> Iterator[None]:
    """Yield while a gateway does not act by the last change, for at most WAIT_SECONDS."""
    until = time.monotonic() + WAIT_SECONDS
    while runtime.installation.is_pending() and time.monotonic() < until:
        yield


def _with_reason(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Add the reason why the change is not in effect everywhere, if there is one."""
    reason = runtime.installation.pending_reason()
    if reason is None:
        return response
    if not request.path.startswith("/api/"):
        text = gettext("The change is stored, but it is not in effect everywhere yet: %(reason)s.")
        messages.warning(request, text % {"reason": reason})
    elif isinstance(response, HttpResponse):
        body = json.loads(response.content or b"{}")
        if isinstance(body, dict):
            response.content = json.dumps({**body, "pending": reason}).encode()
        response.status_code = 202
        response.headers["Content-Type"] = "application/json"
    return response
