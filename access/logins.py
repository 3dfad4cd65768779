"""Failed logins: how many of them a client and a name may have until the next one has to wait. A wrong old password
on the page that changes it is one, too.

Kept in memory: there is one control process, and its restart forgets them. A name counts whether it is anybody's or
not. Whoever has logged in from a browser before is counted by that browser alone, which a signed cookie knows: nobody
keeps others out by failing in their name, or from an address that they share.
"""

import hashlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from access.models import User
from gateway.peer import client_of

MOST_FAILURES = 10
WINDOW_SECONDS = 300.0
MOST_KEPT = 10_000  # clients, names and browsers; the one that failed longest ago goes first
COOKIE, COOKIE_SECONDS = "routerdash_browser", 365 * 86400


class Failures:
    """The latest of each key. Only the clock that is passed in is known to it, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def attempt(self, keys: Iterable[str]) -> float:
        """Seconds to wait, if one of the keys has failed too often. Else 0, and this is a failure of each of them until
        it is forgotten: so many attempts at the same time are no way around.
        """
        keys = tuple(keys)
        with self._lock:
            now = self._clock()
            wait = max(self._wait(key, now) for key in keys)
            if wait > 0:
                return wait
            for key in keys:
                self._times.setdefault(key, deque(maxlen=MOST_FAILURES)).append(now)
                self._times.move_to_end(key)
            while len(self._times) > MOST_KEPT:
                self._times.popitem(last=False)
            return 0.0

    def forget(self, keys: Iterable[str]) -> None:
        """The attempt has succeeded."""
        with self._lock:
            for key in keys:
                self._times.pop(key, None)

    def clear(self) -> None:
        with self._lock:
            self._times.clear()

    def _wait(self, key: str, now: float) -> float:
        times = self._times.get(key)
        return 0.0 if times is None or len(times) < MOST_FAILURES else times[0] + WINDOW_SECONDS - now


failures = Failures()


def keys(request: HttpRequest, username: str) -> tuple[str, ...]:
    """What an attempt to log in, or to change a password, counts for."""
    name = _digest(username)
    browser = request.get_signed_cookie(COOKIE, "", salt=COOKIE, max_age=COOKIE_SECONDS)
    if browser == name:
        return (f"browser {request.COOKIES[COOKIE]}",)
    return f"client {client_of(request.META.get('REMOTE_ADDR', ''))}", f"name {name}"


def remember(response: HttpResponse, username: str) -> None:
    """This browser is where this user logs in."""
    response.set_signed_cookie(
        COOKIE,
        _digest(username),
        salt=COOKIE,
        max_age=COOKIE_SECONDS,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


def _digest(username: str) -> str:
    """Of the name that the backend looks for, however it was typed."""
    found = User.normalize_username(username.strip()).strip()
    return hashlib.sha256(found.encode(errors="surrogatepass")).hexdigest()
