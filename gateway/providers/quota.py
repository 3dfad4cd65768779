"""How long a provider wants no requests: from its headers, and from what its errors name.

`x-ratelimit-reset-…` of OpenAI is the time until a bucket is full again, and that of others the end of a window. Only
that of a quantity of which nothing remains is a reason to wait.
"""

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_SECONDS = 900.0  # after which the provider is asked again, whatever it has said
MAX_TEXT = 128  # characters of a time; no format has more
Headers = Iterable[tuple[bytes, bytes]]

_DIMENSION = re.compile(
    rb"x-ratelimit-(?P<part>limit|remaining|reset)(?:-(?P<name>[a-z0-9_-]+))?"
    rb"|anthropic-ratelimit-(?P<own_name>[a-z0-9_-]+)-(?P<own_part>limit|remaining|reset)"
)
_NUMBER = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?")
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,12})?(?:h|ms|m|s|us|µs|ns|d))+")
_UNIT = re.compile(r"([0-9.]{1,22})(h|ms|m|s|us|µs|ns|d)")
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_MILLISECONDS_SINCE, _SECONDS_SINCE = 1e11, 1e9  # greater numbers are times since 1970
# Windows of quantities whose reset has no header, by the end of their name (Mistral).
_WINDOWS = {b"-minute": 60.0, b"-hour": 3600.0, b"-day": 86400.0, b"-month": 2_592_000.0}


def seconds_of(text: str, now: float) -> float | None:
    """Return the seconds from `now` (since 1970) to a reset; None if the text is in no known format.

    Known are seconds, durations of Go (`6m0s`, `12ms`), times since 1970 in seconds or milliseconds, RFC 3339 and
    HTTP dates.
    """
    if len(text) > MAX_TEXT:
        return None
    text = text.strip()
    if _NUMBER.fullmatch(text):
        number = float(text)
        if number > _MILLISECONDS_SINCE:
            return number / 1e3 - now
        return number - now if number > _SECONDS_SINCE else number
    if _DURATION.fullmatch(text):
        return sum(float(number) * _SECONDS[unit] for number, unit in _UNIT.findall(text))
    try:
        moment = datetime.fromisoformat(text) if text[:4].isdigit() else parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, IndexError, TypeError, OverflowError):
        return None


def retry_after(headers: Headers, now: float) -> float | None:
    """Return the seconds of Retry-After or retry-after-ms, the greater one; None without any."""
    seconds: list[float | None] = []
    for name, value in headers:
        text = value.decode("latin-1").strip()
        if name == b"retry-after":
            seconds.append(seconds_of(text, now))
        elif name == b"retry-after-ms" and _NUMBER.fullmatch(text):
            seconds.append(float(text) / 1e3)
    return _longest(seconds)


def exhausted(headers: Headers, now: float) -> float | None:
    """Return the seconds until the last reset of a quantity of which nothing remains; None if something remains of all.

    A quantity without a positive limit is none: Azure has such headers at /responses.
    """
    dimensions: dict[bytes, dict[bytes, str]] = {}
    for name, value in headers:
        match = _DIMENSION.fullmatch(name)
        if match is not None:
            key = match["name"] or match["own_name"] or b""
            dimensions.setdefault(key, {})[match["part"] or match["own_part"]] = value.decode("latin-1").strip()
    return _longest(_reset_of(key, parts, now) for key, parts in dimensions.items())


def _reset_of(name: bytes, parts: dict[bytes, str], now: float) -> float | None:
    remaining, limit = parts.get(b"remaining", ""), parts.get(b"limit", "")
    if not _NUMBER.fullmatch(remaining) or float(remaining) != 0:
        return None
    if _NUMBER.fullmatch(limit) and float(limit) <= 0:
        return None
    if b"reset" in parts:
        return seconds_of(parts[b"reset"], now)
    return next((seconds for end, seconds in _WINDOWS.items() if name.endswith(end)), None)


def wait_seconds(headers: Headers, now: float, delay: str | None = None) -> float | None:
    """Return how long to send nothing after a refusal, at most MAX_SECONDS; None if the provider does not say it.

    `delay`: what the body of the refusal names.
    """
    headers = list(headers)
    named = None if delay is None else seconds_of(delay, now)
    return capped(_longest((retry_after(headers, now), exhausted(headers, now), named)))


def capped(seconds: float | None) -> float | None:
    """Return the seconds of a pause, at most MAX_SECONDS; None if there is none."""
    return None if seconds is None or seconds <= 0 else min(MAX_SECONDS, seconds)


def _longest(waits: Iterable[float | None]) -> float | None:
    return max((seconds for seconds in waits if seconds is not None and math.isfinite(seconds)), default=None)
