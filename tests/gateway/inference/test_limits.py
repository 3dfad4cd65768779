"""Limits of API keys, users and everyone, as clients of a gateway see them."""

import threading

from tests.gateway.inference.helpers import error_of
from tests.gateway.process import KEY


def limits_in(given) -> dict[str, str]:
    return {name: value for name, value in given.headers.items() if "ratelimit-" in name}


def test_requests_a_minute(make_gateway, sim):
    gateway = make_gateway().start()
    model = gateway.add(sim.add())
    gateway.limit(requests=2)
    first, second, third = [gateway.chat(model) for _ in range(3)]
    assert (first.status, second.status) == (200, 200)
    assert limits_in(first) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "1m3s",
    }
    assert limits_in(second)["x-ratelimit-remaining-requests"] == "0"
    assert error_of(third) == (429, "rate_limit_exceeded")
    assert third.json()["error"]["type"] == "requests"
    assert third.json()["error"]["message"].startswith(
        "Rate limit reached for this API key on requests per min (RPM): Limit 2, Used 2, Requested 1. "
        "Please try again in "
    )
    assert 55 <= int(third.headers["retry-after"]) <= 63
    assert third.headers["x-routerdash-limit"] == "key; requests"
    assert limits_in(third)["x-ratelimit-remaining-requests"] == "0"
    *_, rejected = gateway.records()
    assert (rejected.outcome, rejected.error, rejected.limit) == ("rejected", "rate_limit_exceeded", "key:requests")
    assert rejected.api_key_id == KEY[3:11]


def test_concurrency_waits(make_gateway, sim):
    gateway = make_gateway().start()
    simulated = sim.add(ttft=0.1)
    model = gateway.add(simulated)
    gateway.limit(concurrency=2)
    threads = [threading.Thread(target=gateway.chat, args=(model,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert simulated.seen.peak == 2
    records = gateway.records()
    assert {record.outcome for record in records} == {"ok"}
    assert sorted(record.limit or "" for record in records) == [""] * 2 + ["key:concurrency"] * 6


def test_without_limits(make_gateway, sim):
    gateway = make_gateway().start()
    model = gateway.add(sim.add())
    gateway.limit(requests=1)
    assert gateway.chat(model).status == 200
    assert gateway.chat(model).status == 429
    gateway.limit()
    given = gateway.chat(model)
    assert (given.status, limits_in(given)) == (200, {})
