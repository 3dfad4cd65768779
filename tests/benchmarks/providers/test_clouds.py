"""What every simulated cloud has, whatever its dialect."""

import gzip
from typing import Any

import pytest

from benchmarks.providers import add
from benchmarks.providers.behaviour import CAUSES
from benchmarks.providers.cloud import COOKIE
from benchmarks.simulator import Simulator
from tests.benchmarks.providers.client import CHATS, PROVIDERS, CloudClient, events, usage_of

# Causes without an error of their own: the provider responds with 200, or its error is not known.
WITHOUT = {("anthropic", "filtered"), ("gemini", "filtered"), ("deepseek", "not_permitted")}


@pytest.fixture(params=PROVIDERS)
def client(request: pytest.FixtureRequest, sim: Simulator) -> CloudClient:
    return CloudClient(add(sim, request.param))


def test_models_are_listed(client: CloudClient) -> None:
    client.cloud.set(models=["one", "two", "three"], page=2)
    path = "/v1/models" if client.is_anthropic else f"{client.cloud.dialect.base}/models"
    listing = client.get(path, headers=client.headers).json()
    listed = [
        model["id"].removeprefix("models/") for model in (listing if isinstance(listing, list) else listing["data"])
    ]
    if client.cloud.dialect.name == "azure":  # lists base models, not deployments
        assert "one" not in listed
        return
    while next_path := _next_page(listing):
        listing = client.get(next_path, headers=client.headers).json()
        listed += [model["id"] for model in listing["data"]]
    assert listed == ["one", "two", "three"]


def _next_page(listing: Any) -> str:
    if not isinstance(listing, dict):
        return ""
    if listing.get("has_more"):
        return f"/v1/models?after_id={listing['last_id']}"
    return (listing.get("links") or {}).get("next") or ""


def test_text_is_the_same_in_a_stream(client: CloudClient) -> None:
    whole, streamed = client.send(), client.send(stream=True)
    assert (whole.status, streamed.status) == (200, 200)
    first, second = client.cloud.tally
    assert first.content.encode() in whole.body
    assert (first.content, first.tokens) == (second.content, second.tokens)
    assert streamed.headers["content-type"].startswith("text/event-stream")


def test_a_stream_reports_the_usage_of_a_complete_response(client: CloudClient) -> None:
    wants: dict[str, Any] = (
        {} if client.cloud.dialect.name == "mistral" else {"stream_options": {"include_usage": True}}
    )
    whole, streamed = usage_of(client.think()), usage_of(client.think(stream=True, **wants))
    assert client.cloud.tally[0].tokens.reasoning == 6
    assert {name: streamed.get(name) for name in whole if whole[name]} == {
        name: value for name, value in whole.items() if value
    }


def test_usage_may_be_absent(client: CloudClient) -> None:
    client.cloud.set(usage="absent")
    assert usage_of(client.send()) == {}
    assert usage_of(client.send(stream=True)) == {}


@pytest.mark.parametrize("provider", CHATS)
def test_usage_may_be_wrong(sim: Simulator, provider: str) -> None:
    client = CloudClient(add(sim, provider, usage="contradictory"))
    usage = usage_of(client.send(reasoning_effort="none"))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] + 7
    client.cloud.set(usage="cached_over")
    usage = usage_of(client.send())
    cached = usage.get("cached_tokens") or usage["prompt_tokens_details"]["cached_tokens"]
    assert cached == usage["prompt_tokens"] + 10


def test_tools_are_called_in_parallel(client: CloudClient) -> None:
    for stream in (False, True):
        response = client.send(tools=client.tools(), stream=stream, max_tokens=100)
        assert (response.status, response.body.count(b'"weather"')) == (200, 2)
    assert [len(generation.calls) for generation in client.cloud.tally] == [2, 2]
    assert client.cloud.tally[0].finish == "tool_calls"


def test_output_ends_at_the_maximum(client: CloudClient) -> None:
    client.send(max_tokens=3)
    made = client.cloud.tally[0]
    assert (made.tokens.output, made.finish) == (3, "length")


def test_a_wrong_key_is_refused_and_a_missing_one(client: CloudClient) -> None:
    for key in ("wrong", None):
        status = client.post(client.path, {}, key=key, headers=client.headers).status
        assert status in (400, 401, 403)
    assert client.cloud.tally == []


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_has_an_error(client: CloudClient, cause: str) -> None:
    response = client.send(f"sim-{cause}")
    if (client.cloud.dialect.name, cause) in WITHOUT:
        assert response.status == 200
        return
    assert response.status == client.cloud.dialect.problems[cause].status
    assert response.json()


def test_a_directive_may_let_some_requests_pass(client: CloudClient) -> None:
    statuses = [client.send("sim-server-after-2").status for _ in range(3)]
    assert statuses == [200, 200, 500]


def test_an_error_may_come_in_mid_stream(client: CloudClient) -> None:
    client.cloud.set(fault="error_event")
    response = client.send(stream=True)
    assert response.status == 200
    assert "error" in str(events(response)[-1])


def test_a_key_is_echoed_where_the_provider_does_so(client: CloudClient) -> None:
    response = client.send("sim-key_refused")
    echoes = "{key}" in client.cloud.dialect.problems["key_refused"].message
    assert (client.key.encode() in response.body) == echoes


def test_every_response_sets_a_cookie(client: CloudClient) -> None:
    for response in (client.send(), client.send(stream=True), client.send("sim-500"), client.get("/nothing")):
        assert COOKIE in response.headers["set-cookie"]


def test_every_path_may_be_redirected(client: CloudClient) -> None:
    client.cloud.set(redirect="http://127.0.0.1:1")
    response = client.send()
    assert (response.status, response.headers["location"]) == (307, f"http://127.0.0.1:1{client.path}")


def test_complete_responses_are_compressed_on_request(client: CloudClient) -> None:
    response = client.send(headers={"Accept-Encoding": "gzip"})
    assert response.headers["content-encoding"] == "gzip"
    assert client.cloud.tally[0].content.encode() in gzip.decompress(response.body)


def test_the_same_request_has_the_same_tokens(client: CloudClient) -> None:
    client.send()
    client.send()
    first, second = client.cloud.tally
    assert first.tokens == second.tokens
    assert first.tokens.input == 3 + 1 + 5  # the frame, the role and five words


def test_an_unknown_model_is_refused(client: CloudClient) -> None:
    assert client.send("nothing").status in (400, 404)
