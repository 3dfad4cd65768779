"""Limit of failed logins per client address and per user name.

A wrong old password on the page that changes the password counts as a failed login. The failures are in memory:
there is one control process, and a restart resets them. Names of users that do not exist are counted too.

A signed cookie marks the browser in which a user has logged in before. Attempts of this user in this browser are
counted for the browser alone: an attacker cannot lock the user out with the user's name or a shared address.
"""

import hashlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from access.models import User
from gateway.base.addresses import client_of

MAX_FAILURES = 10
WINDOW_SECONDS = 300.0
MAX_KEPT = 10_000  # clients, names and browsers; the one whose last failure is oldest is dropped first
COOKIE, COOKIE_SECONDS = "routerdash_browser", 365 * 86400


class Failures:
    """Times of the latest failures of each key (client, name or browser). `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def attempt(self, keys: Iterable[str]) -> float:
        """Return the seconds to wait if one of the keys has failed too often, else 0.

        With 0, the attempt counts as a failure of each key until `forget` is called: concurrent attempts cannot
        exceed the limit.
        """
        keys = tuple(keys)
        with self._lock:
            now = self._clock()
            wait = max(self._wait(key, now) for key in keys)
            if wait > 0:
                return wait
            for key in keys:
                self._times.setdefault(key, deque(maxlen=MAX_FAILURES)).append(now)
                self._times.move_to_end(key)
            while len(self._times) > MAX_KEPT:
                self._times.popitem(last=False)
            return 0.0

    def forget(self, keys: Iterable[str]) -> None:
        """Drop the failures of the keys: the attempt has succeeded."""
        with self._lock:
            for key in keys:
                self._times.pop(key, None)

    def clear(self) -> None:
        with self._lock:
            self._times.clear()

    def _wait(self, key: str, now: float) -> float:
        times = self._times.get(key)
        return 0.0 if times is None or len(times) < MAX_FAILURES else times[0] + WINDOW_SECONDS - now


failures = Failures()


def keys(request: HttpRequest, username: str) -> tuple[str, ...]:
    """Return the keys that count an attempt to log in or to change a password."""
    name = _digest(username)
    browser = request.get_signed_cookie(COOKIE, "", salt=COOKIE, max_age=COOKIE_SECONDS)
    if browser == name:
        return (f"browser {request.COOKIES[COOKIE]}",)
    return f"client {client_of(request.META.get('REMOTE_ADDR', ''))}", f"name {name}"


def remember(response: HttpResponse, username: str) -> None:
    """Set the cookie that marks this browser as one in which the user has logged in."""
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
    """Return the SHA-256 of the name, normalized as the backend does, in hexadecimal."""
    name = User.normalize_username(username.strip()).strip()
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
