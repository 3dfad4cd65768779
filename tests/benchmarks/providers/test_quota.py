"""Limits that refill, and their headers in each dialect."""

import pytest

from benchmarks.providers import Cloud, add
from benchmarks.providers.quota import Quota, go_duration, rfc3339
from benchmarks.simulator import Simulator
from tests.benchmarks.providers.client import CloudClient

LIMITED = ("openai", "anthropic", "azure", "openrouter", "groq", "mistral", "xai", "together")
NOW = 1_790_000_000.0  # 2026-09-21T14:13:20Z


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def limited(sim: Simulator, provider: str, **behaviour) -> tuple[CloudClient, Clock]:
    cloud: Cloud = add(sim, provider, **behaviour)
    clock = Clock()
    cloud.clock = clock
    return CloudClient(cloud), clock


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.012, "12ms"), (1, "1s"), (7.66, "7.66s"), (360, "6m0s"), (3723, "1h2m3s"), (179.556, "2m59.56s")],
)
def test_durations_are_written_as_in_go(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text


def test_moments_are_written_in_utc() -> None:
    assert rfc3339(NOW) == "2026-09-21T14:13:20Z"


def test_a_bucket_refills_at_a_steady_rate() -> None:
    quota = Quota()
    quota.configure({"requests": 6, "tokens": 0}, 60, 0)
    assert [quota.take({"requests": 3}, 0) for _ in range(2)] == [0, 0]
    assert quota.take({"requests": 2}, 5) == pytest.approx(15)
    assert quota.take({"requests": 2}, 20) == 0
    assert quota.buckets["requests"].full_in == pytest.approx(60)


def test_a_bucket_whose_limit_stays_keeps_its_level() -> None:
    quota = Quota()
    for _ in range(2):
        quota.configure({"requests": 6}, 60, 0)
        quota.take({"requests": 2}, 0)
    assert quota.buckets["requests"].remaining == 2


@pytest.mark.parametrize("provider", LIMITED)
def test_a_limit_counts_down_and_then_refuses(sim: Simulator, provider: str) -> None:
    client, clock = limited(sim, provider, requests_limit=2)
    assert [client.send().status for _ in range(3)] == [200, 200, 429]
    clock.now += 30
    assert [client.send().status for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("provider", ["gemini", "deepseek"])
def test_some_have_no_headers(sim: Simulator, provider: str) -> None:
    client, _ = limited(sim, provider, requests_limit=1)
    client.send()
    response = client.send()
    assert response.status == 429
    assert not [name for name in response.headers if "limit" in name or "retry" in name]


def test_gemini_names_the_time_in_its_error(sim: Simulator) -> None:
    client, _ = limited(sim, "gemini", requests_limit=1)
    client.send()
    details = client.send().json()[0]["error"]["details"]
    assert details[0]["retryDelay"] == "60s"


@pytest.mark.parametrize(
    ("provider", "headers"),
    [
        ("openai", {"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "15s"}),
        ("azure", {"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "15"}),
        ("groq", {"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "15s"}),
        ("xai", {"x-ratelimit-limit-requests": "4", "x-ratelimit-remaining-requests": "3"}),
        ("mistral", {"x-ratelimit-limit-req-minute": "4", "x-ratelimit-remaining-req-minute": "3"}),
        ("together", {"x-ratelimit-limit": "4", "x-ratelimit-remaining": "3", "x-ratelimit-reset": "15"}),
        ("openrouter", {"x-ratelimit-remaining": "3", "x-ratelimit-reset": str(int((NOW + 15) * 1000))}),
        (
            "anthropic",
            {
                "anthropic-ratelimit-requests-remaining": "3",
                "anthropic-ratelimit-requests-reset": "2026-09-21T14:13:35Z",
            },
        ),
    ],
)
def test_headers_of_a_limit(sim: Simulator, provider: str, headers: dict[str, str]) -> None:
    client, _ = limited(sim, provider, requests_limit=4)
    received = client.send().headers
    assert {name: received.get(name) for name in headers} == headers


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        ("openai", "x-ratelimit-remaining-tokens"),
        ("mistral", "x-ratelimit-remaining-tokens-minute"),
        ("together", "x-tokenlimit-remaining"),
    ],
)
def test_tokens_are_counted_down(sim: Simulator, provider: str, name: str) -> None:
    client, _ = limited(sim, provider, tokens_limit=1000)
    headers = client.send().headers
    assert int(headers[name]) == 1000 - client.cloud.tally[0].tokens.total


def test_anthropic_limits_input_and_output_apart(sim: Simulator) -> None:
    client, _ = limited(sim, "anthropic", tokens_limit=1000)
    headers = client.send().headers
    tokens = client.cloud.tally[0].tokens
    assert headers["anthropic-ratelimit-input-tokens-remaining"] == str(1000 - tokens.input)
    assert headers["anthropic-ratelimit-output-tokens-remaining"] == str(1000 - tokens.output)


def test_retry_after_is_the_time_until_there_is_room(sim: Simulator) -> None:
    client, clock = limited(sim, "openai", requests_limit=2)
    for _ in range(2):
        client.send()
    assert client.send().headers["retry-after-ms"] == "30000"
    clock.now += 20
    assert client.send().headers["retry-after"] == "10"
