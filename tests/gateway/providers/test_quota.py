"""Pauses that providers name: documented headers and bodies."""

import pytest

from gateway.providers.quota import MAX_SECONDS, capped, exhausted, retry_after, seconds_of, wait_seconds

NOW = 1_755_780_000.0  # 2025-08-21T12:40:00Z


def headers(*lines: str) -> list[tuple[bytes, bytes]]:
    pairs = (line.split(": ", 1) for line in lines)
    return [(name.lower().encode(), value.encode()) for name, value in pairs]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12ms", 0.012),
        ("1s", 1),
        ("6m0s", 360),
        ("1h2m3s", 3723),
        ("2m59.56s", 179.56),
        ("7.66s", 7.66),
        ("36s", 36),
        ("30", 30),
        ("0.5", 0.5),
        ("2025-08-21T12:40:59Z", 59),
        ("2025-08-21T14:41:00+02:00", 60),
        ("Thu, 21 Aug 2025 12:41:00 GMT", 60),
        ("1755780060000", 60),
        ("1755780060", 60),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("1e9", None),
        ("9" * 400, None),
        ("2025-99-99T00:00:00Z", None),
        ("5 parsecs", None),
        ("Thu, 99 Aug 2025 12:41:00 GMT", None),
    ],
)
def test_times_in_every_format(text, seconds):
    parsed = seconds_of(text, NOW)
    assert parsed == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        (["Retry-After: 7"], 7),
        (["Retry-After: 0.5"], 0.5),
        (["Retry-After: Thu, 21 Aug 2025 12:40:30 GMT"], 30),
        (["retry-after-ms: 1500"], 1.5),
        (["Retry-After: 1", "retry-after-ms: 1500"], 1.5),
        (["Retry-After: later"], None),
        (["retry-after-ms: 2m"], None),
        ([], None),
    ],
)
def test_retry_after(lines, seconds):
    assert retry_after(headers(*lines), NOW) == seconds


RESETS = [
    # OpenAI: durations of Go
    (["x-ratelimit-remaining-requests: 0", "x-ratelimit-reset-requests: 6m0s"], 360),
    (["x-ratelimit-remaining-tokens_usage_based: 0", "x-ratelimit-reset-tokens_usage_based: 12ms"], 0.012),
    (["x-ratelimit-remaining-requests: 59", "x-ratelimit-reset-requests: 1s"], None),
    (
        [
            "x-ratelimit-remaining-requests: 59",
            "x-ratelimit-reset-requests: 10m0s",
            "x-ratelimit-remaining-tokens: 0",
            "x-ratelimit-reset-tokens: 1s",
        ],
        1,
    ),
    # Anthropic: RFC 3339
    (
        [
            "anthropic-ratelimit-input-tokens-limit: 50000",
            "anthropic-ratelimit-input-tokens-remaining: 0",
            "anthropic-ratelimit-input-tokens-reset: 2025-08-21T12:40:59Z",
        ],
        59,
    ),
    (
        [
            "anthropic-ratelimit-requests-remaining: 3",
            "anthropic-ratelimit-requests-reset: 2025-08-21T12:40:59Z",
        ],
        None,
    ),
    # Azure: seconds; at /responses no values
    (["x-ratelimit-remaining-tokens: 0", "x-ratelimit-reset-tokens: 17"], 17),
    (["x-ratelimit-limit-tokens: -1", "x-ratelimit-remaining-tokens: 0", "x-ratelimit-reset-tokens: 17"], None),
    (["x-ratelimit-remaining-tokens: -1", "x-ratelimit-reset-tokens: 17"], None),
    # OpenRouter: milliseconds since 1970
    (["X-RateLimit-Limit: 20", "X-RateLimit-Remaining: 0", "X-RateLimit-Reset: 1755780042000"], 42),
    # Groq: requests a day, tokens a minute
    (["x-ratelimit-remaining-requests: 0", "x-ratelimit-reset-requests: 2m59.56s"], 179.56),
    # Mistral: windows without a reset
    (["x-ratelimit-remaining-req-minute: 0", "x-ratelimit-limit-req-minute: 60"], 60),
    (["x-ratelimit-remaining-tokens-month: 0"], 2_592_000),
    (["x-ratelimit-remaining-tokens: 0"], None),
    # Together: seconds
    (["x-ratelimit-limit: 10", "x-ratelimit-remaining: 0", "x-ratelimit-reset: 3"], 3),
]


@pytest.mark.parametrize(("lines", "seconds"), RESETS)
def test_only_a_quantity_of_which_nothing_remains_is_awaited(lines, seconds):
    wait = exhausted(headers(*lines), NOW)
    assert wait == (None if seconds is None else pytest.approx(seconds))


def test_the_longest_wait_counts():
    lines = headers("Retry-After: 2", "x-ratelimit-remaining-tokens: 0", "x-ratelimit-reset-tokens: 20s")
    assert wait_seconds(lines, NOW) == 20
    assert wait_seconds(lines, NOW, "36s") == 36


def test_waits_are_capped():
    assert wait_seconds(headers("Retry-After: 86400"), NOW) == MAX_SECONDS
    assert (capped(None), capped(0.0), capped(-3.0), capped(1.5)) == (None, None, None, 1.5)
