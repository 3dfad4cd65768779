"""GET /api/dashboard/events: the overview as server-sent events (SSE)."""

import asyncio
import time
from collections.abc import AsyncIterator

from django.contrib.auth import get_user
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse

from gateway.base import bounds
from metrics.api.event_stream import MAX_FOLLOWED, Followed, hub
from metrics.exports.downloads import RETRY_SECONDS
from metrics.exports.long_response import MAX_STREAMS_PER_USER, LongLivedResponse, UserSlot, UserSlots
from metrics.memory.runtime import runtime

SESSION_SECONDS = 15.0


async def events(request: HttpRequest) -> HttpResponseBase:
    """Send the overview as server-sent events to a page of a session.

    The response has the endpoints that the overview shows, or with `endpoints` those of these ids, separated by commas.
    The account is checked every 15 seconds. A logout only removes the cookie from the browser, whose other pages notice
    it. A page that reconnects sends the id of its last event, in a header or as `last_event_id`. With `once`, the
    response has the events that it missed, and ends. That is for networks without streams, and for users at their limit
    of streams. The header `X-RouterDash-Streams` of this response is then `full`, else `free`.
    """
    user = await request.auser()
    if not user.is_authenticated:
        return JsonResponse({"error": "Log in first."}, status=401)
    if user.must_change_password:
        return JsonResponse({"error": "password_change_required"}, status=403)
    last_id = request.headers.get("Last-Event-ID") or request.GET.get("last_event_id", "")
    followed = _followed(request)
    kind = "text/event-stream"
    response: HttpResponseBase
    if "once" in request.GET:
        response = HttpResponse(await hub.missed(last_id, followed), content_type=kind)
        response.headers["X-RouterDash-Streams"] = "full" if open_streams.is_full(str(user.pk)) else "free"
    elif (slot := open_streams.take(str(user.pk))) is None:
        runtime.installation.bound_hits.hit(bounds.EVENT_STREAMS)
        text = f"You have {open_streams.limit} live pages open, which is the limit; send `once` for a single response."
        return JsonResponse({"error": text}, status=429, headers={"Retry-After": str(RETRY_SECONDS)})
    else:
        response = LongLivedResponse(_while_allowed(request, last_id, followed, slot), content_type=kind)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response


open_streams = UserSlots(MAX_STREAMS_PER_USER)


def _followed(request: HttpRequest) -> Followed:
    """Return the endpoints in the address; None without the parameter. Ids beyond the limit are ignored."""
    ids = request.GET.get("endpoints")
    return None if ids is None else frozenset([name for name in ids.split(",") if name][:MAX_FOLLOWED])


async def _while_allowed(
    request: HttpRequest, last_id: str, followed: Followed, slot: UserSlot
) -> AsyncIterator[bytes]:
    checked_at = 0.0
    try:
        async for event in hub.listen(last_id, followed):
            now = time.monotonic()
            if now - checked_at > SESSION_SECONDS:
                checked_at = now
                if not await asyncio.to_thread(_still_logged_in, request):
                    return
            yield event
    finally:
        slot.release()


def _still_logged_in(request: HttpRequest) -> bool:
    """Check that the account still exists, with the same password and no pending change of it."""
    try:
        user = get_user(request)
        return bool(user.is_authenticated and not user.must_change_password)
    finally:
        close_old_connections()  # Django closes none in a thread of the pool
