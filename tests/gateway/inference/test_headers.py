"""Headers that pass from the client to an endpoint, and back."""

import pytest

from gateway.dialects.redact import REDACTED
from gateway.inference.headers import (
    MAX_CACHED,
    AllowList,
    client_headers,
    endpoint_lines,
    header_lines,
    routing_lines,
)
from gateway.routing.adaptive import NO_LIMIT
from gateway.routing.balancer import Decision


def test_header_lines():
    assert header_lines([(b"a", b"1"), (b"b", b"2")]) == b"a: 1\r\nb: 2\r\n"


@pytest.mark.parametrize(
    "name", [b"authorization", b"x-api-key", b"cookie", b"host", b"x-forwarded-for", b"connection"]
)
def test_no_credentials_and_no_headers_of_one_hop_reach_an_endpoint(name):
    assert endpoint_lines([(name, b"x"), (b"accept", b"*/*"), (b"openai-beta", b"y")]) == (
        b"accept: */*\r\nopenai-beta: y\r\n"
    )


@pytest.mark.parametrize("name", [b"set-cookie", b"access-control-allow-origin", b"location", b"content-length"])
def test_no_cookies_cors_or_redirects_reach_a_client(name):
    headers = [(name, b"x"), (b"content-type", b"text/plain"), (b"x-ratelimit-limit", b"9")]
    assert client_headers(headers) == headers[1:]


def test_the_api_key_of_an_endpoint_is_removed():
    assert client_headers([(b"openai-organization", b"of sk-secret")], b"sk-secret") == [
        (b"openai-organization", b"of " + REDACTED)
    ]


def test_an_allow_list_caches_a_limited_number_of_names():
    names = AllowList((b"accept",), (b"openai-",))
    assert [names[b"accept"], names[b"openai-beta"], names[b"cookie"]] == [True, True, False]
    assert len(names) == 3
    assert not names[b"x" * 100]
    assert len(names) == 3
    for number in range(2 * MAX_CACHED):
        assert not names[b"x-%d" % number]
    assert len(names) == MAX_CACHED


@pytest.mark.parametrize(
    ("chosen", "times", "expected"),
    [
        ("a", [("a", 0.009)], b"x-routerdash-reason: why;cost=9\r\n"),
        ("a", [("a", 0.0099), ("b", 0.011), ("c", 0.012)], b"x-routerdash-reason: why;cost=9;next=11\r\n"),
        ("b", [("a", 0.009), ("b", 0.01), ("c", 0.012)], b"x-routerdash-reason: why;cost=10;next=9\r\n"),
        (
            "x",
            [("a", 0.009), ("b", 0.01)],
            b"x-routerdash-reason: why;next=9\r\n",
        ),  # eight others take less time
    ],
)
def test_an_adaptive_decision_is_explained(chosen, times, expected):
    decision = Decision(chosen, "why", (), [(seconds, name, NO_LIMIT) for name, seconds in times])
    assert routing_lines(decision, 0) == expected
    assert routing_lines(decision, 12) == expected + b"x-routerdash-affinity: kept=12\r\n"
