"""Simulated clouds behind a real gateway: records equal the tokens that the clouds generated, and secrets stay here."""

import json
from typing import Any

import pytest

from benchmarks.providers import DIALECTS, Cloud, add
from benchmarks.providers.cloud import COOKIE
from benchmarks.simulator import Simulator
from gateway.base.sealing import Sealer
from gateway.ipc.record import FAILED, OK, RequestRecord
from gateway.providers.table import PROVIDERS
from gateway.registry import schema
from tests.gateway.process import GatewayProcess
from tests.gateway.samples import make_endpoint
from tests.http import Response
from tests.router import until

CHATS = [name for name in DIALECTS if name != "anthropic"]
# What a provider does not report of chats.
WITHOUT_REASONING, WITHOUT_WRITTEN = ("together",), ("gemini", "groq", "mistral", "deepseek", "xai", "together")
WITHOUT_TIME = ("deepseek", "xai")  # their limits name no time
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
CHAT_TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
RESPONSE_TOOL = {"type": "function", "name": "weather", "parameters": SCHEMA}
MESSAGES_TOOL = {"name": "weather", "input_schema": SCHEMA}
WORDS = [{"role": "user", "content": "Say hello to us all"}]


class CloudBehind:
    """A cloud behind the gateway, and requests to it."""

    def __init__(self, gateway: GatewayProcess, cloud: Cloud, model: str = "") -> None:
        self.gateway, self.cloud = gateway, cloud
        until(gateway.config.key_file.exists)  # the gateway creates it
        sealed = Sealer([gateway.config.key_file.read_bytes()]).seal(cloud.key)
        provider = cloud.dialect.name
        self.model = gateway.add(
            self, kind=provider, external=True, sealed_key=sealed, known_as=model or cloud.behaviour.models[0]
        )
        self.path = "/v1/messages" if provider == "anthropic" else "/v1/chat/completions"

    @property
    def url(self) -> str:
        """The base URL without `/v1`, as endpoints have it."""
        return self.cloud.base_url.removesuffix("/v1")

    def send(self, path: str = "", **fields: Any) -> Response:
        body = {"model": self.model, "messages": WORDS, **({"max_tokens": 100} if "messages" in self.path else {})}
        return self.gateway.post(path or self.path, {**body, **fields})

    def think(self, **fields: Any) -> Response:
        wish: dict[str, Any] = (
            {"thinking": {"type": "adaptive"}} if self.path == "/v1/messages" else {"reasoning_effort": "low"}
        )
        return self.send(**wish, **fields)

    def check(self, response: Response) -> RequestRecord:
        """Compare the record of the only request with the tokens that the cloud generated."""
        assert response.status == 200, response
        record, tokens = self.gateway.record(), self.cloud.tally[-1].tokens
        assert (record.outcome, record.estimated) == (OK, False)
        assert (record.input_tokens, record.output_tokens) == (tokens.input, tokens.output)
        return record


def behind(gateway: GatewayProcess, sim: Simulator, provider: str, model: str = "", **behaviour: Any) -> CloudBehind:
    return CloudBehind(gateway, add(sim, provider, **behaviour), model)


@pytest.mark.parametrize("stream", [False, True], ids=["complete", "stream"])
@pytest.mark.parametrize("provider", DIALECTS)
def test_every_kind_of_token_is_recorded(gateway, sim: Simulator, provider: str, stream: bool) -> None:
    cloud = behind(gateway, sim, provider, "gpt-6.2" if provider == "openai" else "")
    record = cloud.check(cloud.think(stream=stream))
    tokens = cloud.cloud.tally[-1].tokens
    assert tokens.reasoning == 6
    assert record.cached_tokens == tokens.cached
    assert record.cache_write_tokens == (None if provider in WITHOUT_WRITTEN else tokens.written)
    assert record.reasoning_tokens == (None if provider in WITHOUT_REASONING else tokens.reasoning)
    assert record.finish_reason == "stop"


@pytest.mark.parametrize("provider", DIALECTS)
def test_parallel_tool_calls_arrive(gateway, sim: Simulator, provider: str) -> None:
    cloud = behind(gateway, sim, provider)
    tools = [MESSAGES_TOOL if provider == "anthropic" else CHAT_TOOL]
    for stream in (False, True):
        response = cloud.send(tools=tools, stream=stream)
        record = cloud.check(response)
        assert response.body.count(b'"weather"') == 2
        assert record.finish_reason == "tool_calls"


@pytest.mark.parametrize("provider", ["openai", "azure", "xai"])
def test_responses_are_recorded(gateway, sim: Simulator, provider: str) -> None:
    cloud = behind(gateway, sim, provider, "gpt-6.2" if provider == "openai" else "")
    for stream in (False, True):
        for extra in ({}, {"tools": [RESPONSE_TOOL]}):
            fields = {"input": "Say hello", "messages": None, "stream": stream, **extra}
            record = cloud.check(cloud.send("/v1/responses", **fields))
            assert record.reasoning_tokens == cloud.cloud.tally[-1].tokens.reasoning


@pytest.mark.parametrize("provider", ["openai", "gemini", "mistral", "openrouter", "together"])
def test_embeddings_are_recorded(gateway, sim: Simulator, provider: str) -> None:
    cloud = behind(gateway, sim, provider, DIALECTS[provider].models[-1])
    assert cloud.send("/v1/embeddings", input=["a b", "c"], messages=None).status == 200
    assert gateway.record().input_tokens == 3 + 3


@pytest.mark.parametrize("stream", [False, True], ids=["complete", "stream"])
@pytest.mark.parametrize("provider", DIALECTS)
def test_cookies_go_nowhere(gateway, sim: Simulator, provider: str, stream: bool) -> None:
    cloud = behind(gateway, sim, provider)
    for _ in range(2):
        response = cloud.send(stream=stream)
        assert "set-cookie" not in response.headers
        assert COOKIE not in str(response.headers)
    assert not [name for sent in cloud.cloud.seen.headers for name in sent if name.lower() == "cookie"]


@pytest.mark.parametrize("provider", DIALECTS)
def test_redirects_are_not_followed(gateway, sim: Simulator, provider: str) -> None:
    elsewhere = add(sim, provider)
    cloud = behind(gateway, sim, provider, redirect=elsewhere.url)
    response = cloud.send()
    assert "location" not in response.headers
    assert elsewhere.url.encode() not in response.body
    assert (elsewhere.seen.started, elsewhere.seen.paths) == (0, [])
    assert (response.status, gateway.record().outcome) == (502, FAILED)


@pytest.mark.parametrize("provider", DIALECTS)
def test_an_echoed_key_reaches_neither_clients_nor_records_nor_the_log(gateway, sim: Simulator, provider: str) -> None:
    cloud = behind(gateway, sim, provider, fault="key_refused")
    key = cloud.cloud.key
    response = cloud.send()
    assert response.status >= 400
    assert key.encode() not in response.body
    assert key not in str(response.headers)
    assert key not in repr(gateway.record())
    assert key not in gateway.log()


@pytest.mark.parametrize("provider", DIALECTS)
def test_an_error_in_mid_stream_reaches_the_client_and_is_a_failure(gateway, sim: Simulator, provider: str) -> None:
    cloud = behind(gateway, sim, provider, fault="error_event")
    response = cloud.send(stream=True)
    assert response.status == 200
    assert b"error" in response.body
    record = gateway.record()
    assert record.outcome == FAILED
    if provider == "mistral":  # it has only a finish reason for this
        assert record.finish_reason == "error"


@pytest.mark.parametrize("provider", DIALECTS)
def test_a_quota_that_is_used_up_goes_to_the_next_endpoint(gateway, sim: Simulator, provider: str) -> None:
    """The cloud is asked once more at most, and then left alone until the time that it names."""
    cloud = behind(gateway, sim, provider, requests_limit=1)
    model = schema.Model(cloud.cloud.behaviour.models[0], cloud.model, (cloud.model,))
    spare = make_endpoint("", model, status=schema.PENDING, base_url=sim.add(models=[model.id]).url)
    gateway.endpoints[spare.id] = spare
    gateway.publish()
    assert [cloud.send().status for _ in range(4)] == [200] * 4
    assert len(cloud.cloud.tally) == 1
    assert cloud.cloud.seen.started <= (4 if provider in WITHOUT_TIME else 2)


@pytest.mark.parametrize("provider", DIALECTS)
def test_usage_that_is_absent_is_estimated_and_no_zero(gateway, sim: Simulator, provider: str) -> None:
    cloud = behind(gateway, sim, provider, usage="absent")
    assert cloud.send(stream=True).status == 200
    record = gateway.record()
    assert (record.cached_tokens, record.cache_write_tokens, record.reasoning_tokens) == (None, None, None)


@pytest.mark.parametrize("provider", CHATS)
def test_more_cached_tokens_than_input_are_limited_to_it(gateway, sim: Simulator, provider: str) -> None:
    cloud = behind(gateway, sim, provider, usage="cached_over")
    record = cloud.check(cloud.send())
    assert (record.cached_tokens or 0) <= (record.input_tokens or 0)


@pytest.mark.parametrize("provider", [name for name in CHATS if name not in ("gemini", "xai")])
def test_a_total_that_contradicts_its_parts_is_not_believed(gateway, sim: Simulator, provider: str) -> None:
    cloud = behind(gateway, sim, provider, usage="contradictory")
    cloud.check(cloud.send(reasoning_effort="none"))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_keep_alive_comments_do_no_harm(gateway, sim: Simulator, provider: str) -> None:
    cloud = behind(gateway, sim, provider, ttft=0.12)
    cloud.check(cloud.send(stream=True))
    response = cloud.send()
    cloud.check(response)
    assert json.loads(response.body)["model"] == cloud.model


# Chat completions at an endpoint that has only Messages


def chat(cloud: CloudBehind, **fields: Any) -> Response:
    cloud.path = "/v1/chat/completions"
    return cloud.send(**fields)


def streamed_message(response: Response) -> dict[str, Any]:
    """Put the deltas of a streamed chat together."""
    message: dict[str, Any] = {"role": "assistant", "content": "", "reasoning_details": []}
    calls: dict[int, dict[str, Any]] = {}
    for line in response.body.split(b"\n\n"):
        if not line.startswith(b"data: {"):
            continue
        for choice in json.loads(line[6:])["choices"]:
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            for detail in delta.get("reasoning_details") or ():
                known = message["reasoning_details"]
                if not known or known[-1].get("signature"):
                    known.append({"type": "reasoning.text", "text": "", "index": detail.get("index", 0)})
                known[-1]["text"] += detail.get("text") or ""
                known[-1]["signature"] = detail.get("signature")
            for call in delta.get("tool_calls") or ():
                made = calls.setdefault(call["index"], {"type": "function", "function": {"name": "", "arguments": ""}})
                made["id"] = call.get("id") or made["id"]
                made["function"]["name"] += call["function"].get("name") or ""
                made["function"]["arguments"] += call["function"].get("arguments") or ""
    return message | ({"tool_calls": list(calls.values())} if calls else {})


@pytest.mark.parametrize("stream", [False, True], ids=["complete", "stream"])
def test_thinking_comes_back_in_a_tool_loop(gateway, sim: Simulator, stream: bool) -> None:
    cloud = behind(gateway, sim, "anthropic")
    wish = {"tools": [CHAT_TOOL], "reasoning_effort": "low", "stream": stream, "max_completion_tokens": 4000}
    response = chat(cloud, **wish)
    record = cloud.check(response)
    assert (record.reasoning_tokens, record.finish_reason) == (6, "tool_calls")
    message = streamed_message(response) if stream else response.json()["choices"][0]["message"]
    assert [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]] == [{"city": "quick"}] * 2
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "Sunny."} for call in message["tool_calls"]]
    record = cloud.check(chat(cloud, **wish, messages=[*WORDS, message, *results]))
    assert record.finish_reason == "stop"


def test_structured_output_and_images_are_translated(gateway, sim: Simulator) -> None:
    cloud = behind(gateway, sim, "anthropic")
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": {**SCHEMA, "required": ["city"]}}}
    response = chat(cloud, response_format=form)
    cloud.check(response)
    assert json.loads(response.json()["choices"][0]["message"]["content"]) == {"city": "quick"}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    cloud.check(chat(cloud, messages=[{"role": "user", "content": [{"type": "text", "text": "What?"}, image]}]))
    assert cloud.cloud.seen.bodies[-1]["messages"][0]["content"][1]["source"]["media_type"] == "image/png"


def test_sampling_parameters_survive_the_translation(gateway, sim: Simulator) -> None:
    cloud = behind(gateway, sim, "anthropic")
    cloud.check(chat(cloud, temperature=0.5, top_p=0.9))
    assert cloud.cloud.seen.bodies[-1]["temperature"] == 0.5


def test_translated_usage_has_the_prompt_with_its_cached_part(gateway, sim: Simulator) -> None:
    cloud = behind(gateway, sim, "anthropic")
    content = [{"type": "text", "text": "one two three four", "cache_control": {"type": "ephemeral"}}]
    response = chat(cloud, messages=[{"role": "user", "content": content}])
    cloud.check(response)
    usage, tokens = response.json()["usage"], cloud.cloud.tally[-1].tokens
    assert tokens.cached
    assert usage["prompt_tokens"] == tokens.input
    assert usage["prompt_tokens_details"] == {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.written}
