"""Limits in responses: refusals and header lines, in the dialect of the client's API."""

import math
import time
from datetime import UTC, datetime
from functools import lru_cache

from gateway.base import errors
from gateway.base.errors import Refusal, error_body
from gateway.base.queue_class import BULK_PERCENT
from gateway.ipc.counters.counter_file import CELL_SECONDS, CELLS
from gateway.ipc.counters.plan import Excess
from gateway.limits.compiled import CompiledLimits, LevelLimits, LimitedRequest
from gateway.registry.limits import CONCURRENCY, EVERYONE_LEVEL, KEY_LEVEL, REQUESTS, TOKENS, USER_LEVEL, LimitFacts

WINDOW_SECONDS = CELLS * CELL_SECONDS  # after which nothing of a request is left in the limits a minute
NO_RETRY = (b"x-should-retry", b"false")  # SDKs of OpenAI and Anthropic obey it
RETRY_SECONDS = 1  # after a limit on concurrency
UNAVAILABLE_SECONDS = 2

SUBJECTS = {KEY_LEVEL: "this API key", USER_LEVEL: "the user of this API key", EVERYONE_LEVEL: "all API keys together"}
_LIMITS = {CONCURRENCY: "concurrent requests", REQUESTS: "requests per min (RPM)", TOKENS: "tokens per min (TPM)"}
_OPENAI_LINES = b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-reset-%b: %b\r\nx-ratelimit-remaining-%b: "
_ANTHROPIC_LINES = (
    b"anthropic-ratelimit-%b-limit: %d\r\nanthropic-ratelimit-%b-reset: %b\r\nanthropic-ratelimit-%b-remaining: "
)


class LimitRefusal(Refusal):
    """Refuses a request over a limit. `by`: the level and the limit, as records name it; `error_type`: of OpenAI."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: tuple[tuple[bytes, bytes], ...],
        *,
        by: str | None = None,
        error_type: str | None = None,
    ) -> None:
        super().__init__(status, code, message, headers=headers)
        self.by = by
        self.error_type = error_type

    def body(self) -> bytes:
        return error_body(self.status, self.code, self.message, error_type=self.error_type)


def unavailable() -> LimitRefusal:
    """Return the refusal of a request that cannot be counted: it must not pass uncounted."""
    message = "The limits of this API key cannot be counted at the moment. Try again in a few seconds."
    headers = ((b"retry-after", b"%d" % UNAVAILABLE_SECONDS),)
    return LimitRefusal(503, errors.LIMITS_UNAVAILABLE, message, headers)


def name_of(level: LevelLimits, limit: str) -> str:
    """Return a limit as records name it."""
    return f"{level.level}:{limit}"


def can_never_fit(facts: LimitFacts, excess: Excess, tokens: int) -> bool:
    """Return True if the request is larger than the limit in `facts` that it exceeds, so that no retry can help."""
    amount = getattr(facts, excess.limit)
    return amount is not None and (tokens if excess.limit == TOKENS else 1) > amount


def refusal(limited: LimitedRequest, excess: Excess) -> LimitRefusal:
    """Return the refusal of a request that would exceed a limit."""
    compiled, limit = limited.compiled, excess.limit
    level = compiled.level_of(excess)
    whose, name, amount = SUBJECTS[level.level], _LIMITS[limit], level.amount(limit) or 0
    if level.is_part:
        name += f", of which bulk requests may use {BULK_PERCENT} %"
    requested = (limited.reserved or 0) if limit == TOKENS else 1
    now = compiled.plan.clock()
    headers: list[tuple[bytes, bytes]] = [(b"x-routerdash-limit", f"{level.level}; {limit}".encode())]
    if can_never_fit(level.facts, excess, requested):
        message = f"Request too large for {whose} on {name}: Limit {amount}, Requested {requested}. "
        if limit == TOKENS:
            message += "Send a shorter prompt or a lower max_tokens, or have an administrator raise the limit."
            if level.is_part:
                message += " An interactive request may use the whole."
        else:
            message += "Have an administrator raise the limit."
        headers.append(NO_RETRY)
    elif limit == CONCURRENCY:
        message = (
            f"Limit reached for {whose} on {name}: Limit {amount}, Used {max(amount, level.subject.in_flight())}, "
            f"Requested 1. Please try again when one of them has ended."
        )
        headers.append((b"retry-after", b"%d" % RETRY_SECONDS))
    else:
        used, seconds = _use(level, limit, amount - requested, now)
        message = (
            f"Rate limit reached for {whose} on {name}: Limit {amount}, Used {used}, Requested {requested}. "
            f"Please try again in {_duration(seconds)}."
        )
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(seconds))))
    headers += _headers_now(compiled, now, anthropic=limited.anthropic)
    by = name_of(level, limit)
    return LimitRefusal(429, errors.RATE_LIMIT_EXCEEDED, message, tuple(headers), by=by, error_type=limit)


def _use(level: LevelLimits, limit: str, most: int, now: float) -> tuple[int, float]:
    """Return the used part of a limit a minute, and the seconds until at most `most` is used."""
    number = int(now / CELL_SECONDS)
    cells = level.subject.minute(number)[0 if limit == REQUESTS else 1]
    used = left = sum(cells)
    for index, count in enumerate(cells):
        if left <= most:
            return used, max(0.1, (number + index) * CELL_SECONDS - now) if index else 0.1
        left -= count
    return used, (number + CELLS) * CELL_SECONDS - now


def _headers_now(compiled: CompiledLimits, now: float, *, anthropic: bool) -> list[tuple[bytes, bytes]]:
    """Return the headers with the limits a minute as of now."""
    lines = b""
    for limit, amount, left in compiled.least(compiled.plan.left()):
        levels = [level for level in compiled.levels if level.amount(limit) == amount]
        seconds = max(_use(level, limit, 0, now)[1] for level in levels) if left < amount else 0.0
        lines += _first_lines(limit, amount, _reset(seconds, anthropic=anthropic), anthropic) + b"%d\r\n" % left
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines.splitlines())]


def header_lines(limited: LimitedRequest) -> bytes:
    """Return the header lines of a response with the limits a minute, as they were when the request was taken.

    Its own part of them leaves them last, after a whole window.
    """
    left, anthropic = limited.left, limited.anthropic
    if left is None:
        return b""
    reset = _reset(WINDOW_SECONDS, anthropic=True) if anthropic else _FULL_WINDOW
    return b"".join(
        b"%b%d\r\n" % (_first_lines(limit, amount, reset, anthropic), rest)
        for limit, amount, rest in limited.compiled.least(left)
    )


@lru_cache(1000)
def _first_lines(limit: str, amount: int, reset: bytes, anthropic: bool) -> bytes:
    """Return the header lines of a limit a minute, up to the amount that is left of it."""
    name = limit.encode()
    return (_ANTHROPIC_LINES if anthropic else _OPENAI_LINES) % (name, amount, name, reset, name)


def _reset(seconds: float, *, anthropic: bool) -> bytes:
    """Return the time until a limit is full: as a duration for OpenAI's clients, as a time for Anthropic's."""
    if not anthropic:
        return _duration(seconds).encode()
    return datetime.fromtimestamp(math.ceil(time.time() + seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()


def _duration(seconds: float) -> str:
    """Return a duration as OpenAI writes it: `12ms`, `8.64s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{math.ceil(seconds * 100) / 100:g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s"


_FULL_WINDOW = _duration(WINDOW_SECONDS).encode()
