"""Where the simulated providers with chat completions differ."""

import json

import pytest

from benchmarks.providers import add
from benchmarks.simulator import Simulator
from tests.benchmarks.providers.client import CHAT_TOOL, PIXEL, SCHEMA, CloudClient, events, usage_of

STRUCTURED = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}


def cloud(sim: Simulator, provider: str, **behaviour) -> CloudClient:
    return CloudClient(add(sim, provider, **behaviour))


# OpenAI


def test_openai_hides_reasoning_and_counts_it(sim: Simulator) -> None:
    client = cloud(sim, "openai", reasoning=5)
    response = client.send("gpt-6.2")
    assert b"first" not in response.body
    assert response.json()["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5


def test_openai_refuses_max_tokens_for_reasoning_models(sim: Simulator) -> None:
    response = cloud(sim, "openai").send("gpt-6.2", max_tokens=5)
    assert (response.status, response.json()["error"]["code"]) == (400, "unsupported_parameter")


def test_openai_reports_usage_of_a_stream_only_if_it_is_requested(sim: Simulator) -> None:
    client = cloud(sim, "openai")
    assert usage_of(client.send(stream=True)) == {}
    chunks = events(client.send(stream=True, stream_options={"include_usage": True}))
    assert chunks[-1]["choices"] == []
    assert {chunk["usage"] for chunk in chunks[:-1]} == {None}


def test_openai_streams_the_whole_sequence_of_a_response(sim: Simulator) -> None:
    client = cloud(sim, "openai", reasoning=1, tokens=1)
    streamed = events(client.send("gpt-6.2", path="/v1/responses", input="Hi", stream=True))
    assert [event["type"].removeprefix("response.") for event in streamed] == [
        "created", "in_progress",
        "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done",
        "output_item.done", "completed",
    ]  # fmt: skip
    assert [event["sequence_number"] for event in streamed] == list(range(len(streamed)))
    usage = streamed[-1]["response"]["usage"]
    assert usage["input_tokens_details"].keys() == {"cached_tokens", "cache_write_tokens"}


def test_openai_calls_tools_in_a_response(sim: Simulator) -> None:
    client = cloud(sim, "openai")
    tool = {"type": "function", "name": "weather", "parameters": SCHEMA}
    response = client.send(path="/v1/responses", input="Hi", tools=[tool]).json()
    assert [item["type"] for item in response["output"]] == ["function_call", "function_call"]
    one = client.send(path="/v1/responses", input="Hi", tools=[tool], parallel_tool_calls=False).json()
    assert len(one["output"]) == 1


def test_openai_keeps_responses(sim: Simulator) -> None:
    client = cloud(sim, "openai")
    made = client.send(path="/v1/responses", input="Hi").json()
    assert client.get(f"/v1/responses/{made['id']}").json() == made
    assert client.request("DELETE", f"/v1/responses/{made['id']}").json()["deleted"]
    assert client.get(f"/v1/responses/{made['id']}").status == 400


def test_openai_fails_a_response_in_mid_stream(sim: Simulator) -> None:
    client = cloud(sim, "openai", fault="error_event")
    last = events(client.send(path="/v1/responses", input="Hi", stream=True))[-1]
    assert (last["type"], last["response"]["error"]["code"]) == ("response.failed", "server_is_overloaded")


def test_openai_refuses_websockets(sim: Simulator) -> None:
    assert cloud(sim, "openai").get("/v1/responses", headers={"Upgrade": "websocket"}).status == 426


@pytest.mark.parametrize("provider", ["openai", "gemini", "mistral", "together", "openrouter"])
def test_embeddings(sim: Simulator, provider: str) -> None:
    client = cloud(sim, provider)
    path = f"{client.cloud.dialect.base}/embeddings"
    response = client.send(client.cloud.behaviour.models[-1], path=path, input=["a b", "c"], messages=[]).json()
    assert (len(response["data"]), response["usage"]["prompt_tokens"]) == (2, 3 + 3)


@pytest.mark.parametrize("provider", ["openai", "azure", "gemini", "groq", "xai"])
def test_structured_output_follows_the_schema(sim: Simulator, provider: str) -> None:
    completion = cloud(sim, provider).send(response_format=STRUCTURED).json()
    assert json.loads(completion["choices"][0]["message"]["content"]) == {"city": "quick", "days": 7}


def test_images_are_accepted(sim: Simulator) -> None:
    client = cloud(sim, "openai")
    for url, status in (
        (f"data:image/png;base64,{PIXEL}", 200),
        ("https://example.org/a.png", 200),
        ("file:///x", 400),
    ):
        content = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
        assert client.send(messages=[{"role": "user", "content": content}]).status == status
    assert client.cloud.tally[0].tokens.input > 85


# Gemini


def test_gemini_answers_errors_in_an_array(sim: Simulator) -> None:
    client = cloud(sim, "gemini")
    response = client.post(client.path, {}, key="wrong")
    assert response.status == 400
    (item,) = response.json()
    assert item["error"]["details"][0]["reason"] == "API_KEY_INVALID"


def test_gemini_has_thoughts_in_the_total_only(sim: Simulator) -> None:
    usage = cloud(sim, "gemini", reasoning=5).think().json()["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] + 5


def test_gemini_accepts_ids_with_and_without_prefix(sim: Simulator) -> None:
    client = cloud(sim, "gemini")
    assert [client.send(name).status for name in ("gemini-3-pro", "models/gemini-3-pro")] == [200, 200]


def test_gemini_wants_thought_signatures_back(sim: Simulator) -> None:
    client = cloud(sim, "gemini")
    message = client.send(tools=[CHAT_TOOL]).json()["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "Sunny."}
    assert client.send(messages=[message, result]).status == 200
    del message["tool_calls"][0]["extra_content"]
    assert client.send(messages=[message, result]).status == 400


# Azure


def test_azure_has_two_forms_of_addresses(sim: Simulator) -> None:
    client = cloud(sim, "azure")
    dated = "/openai/deployments/gpt-main/chat/completions"
    assert client.send(path=f"{dated}?api-version=2024-10-21", model="ignored").status == 200
    assert client.send(path=dated).status == 404
    assert client.send("gpt-main").status == 200
    assert client.send(path="/openai/responses?api-version=2025-04-01", input="Hi").status == 200
    unknown = client.send(path="/openai/deployments/other/chat/completions?api-version=2024-10-21")
    assert unknown.json()["error"]["code"] == "DeploymentNotFound"


def test_azure_begins_a_stream_with_filter_results(sim: Simulator) -> None:
    first, second, *_ = events(cloud(sim, "azure").send(stream=True))
    assert (first["choices"], first["prompt_filter_results"][0]["prompt_index"]) == ([], 0)
    assert "content_filter_results" in second["choices"][0]


def test_azure_takes_its_own_header(sim: Simulator) -> None:
    client = cloud(sim, "azure")
    body = {"model": "gpt-main", "messages": []}
    assert client.post(client.path, body, key=None, headers={"api-key": client.key}).status == 200


# OpenRouter


def test_openrouter_sends_comments_before_the_first_chunk(sim: Simulator) -> None:
    assert cloud(sim, "openrouter").send(stream=True).body.startswith(b": OPENROUTER PROCESSING\n\n")


def test_openrouter_tells_a_cost(sim: Simulator) -> None:
    usage = usage_of(cloud(sim, "openrouter").send(stream=True))
    parts = usage["cost_details"]
    assert usage["cost"] == parts["upstream_inference_prompt_cost"] + parts["upstream_inference_completions_cost"]


def test_openrouter_may_have_an_error_in_a_200(sim: Simulator) -> None:
    response = cloud(sim, "openrouter").send("sim-error_in_200")
    assert (response.status, response.json()["error"]["code"]) == (200, 529)


def test_openrouter_ends_a_stream_with_the_reason_error(sim: Simulator) -> None:
    last = events(cloud(sim, "openrouter", fault="error_event").send(stream=True))[-1]
    assert last["error"]["metadata"]["error_type"] == "provider_overloaded"
    assert last["choices"][0]["finish_reason"] == "error"


# Groq, Mistral, DeepSeek, xAI, Together


def test_groq_reports_usage_unasked(sim: Simulator) -> None:
    chunks = events(cloud(sim, "groq").send(stream=True))
    assert chunks[0]["x_groq"].keys() == {"id"}
    assert chunks[-1]["x_groq"]["usage"]["total_time"] > 0


def test_groq_refuses_a_log_of_probabilities(sim: Simulator) -> None:
    assert cloud(sim, "groq").send(logprobs=True).status == 400


def test_mistral_refuses_stream_options(sim: Simulator) -> None:
    response = cloud(sim, "mistral").send(stream=True, stream_options={"include_usage": True})
    assert (response.status, response.json()["detail"][0]["loc"]) == (422, ["body", "stream_options"])


def test_mistral_has_lists_of_content(sim: Simulator) -> None:
    content = cloud(sim, "mistral").think().json()["choices"][0]["message"]["content"]
    assert [chunk["type"] for chunk in content] == ["thinking", "text"]


def test_mistral_has_short_ids_of_tool_calls(sim: Simulator) -> None:
    message = cloud(sim, "mistral").send(tools=[CHAT_TOOL]).json()["choices"][0]["message"]
    assert [len(call["id"]) for call in message["tool_calls"]] == [9, 9]


def test_deepseek_sends_blank_lines_and_comments_while_it_waits(sim: Simulator) -> None:
    client = cloud(sim, "deepseek", ttft=0.06)
    whole = client.send()
    assert whole.body.startswith(b"\n\n")
    assert whole.json()["usage"]["prompt_cache_hit_tokens"] > 0
    assert client.send(stream=True).body.startswith(b": keep-alive\n\n")


@pytest.mark.parametrize("prefix", ["", "/v1", "/beta"])
def test_deepseek_has_several_prefixes(sim: Simulator, prefix: str) -> None:
    assert cloud(sim, "deepseek").send(path=f"{prefix}/chat/completions").status == 200


def test_deepseek_wants_its_reasoning_back(sim: Simulator) -> None:
    client = cloud(sim, "deepseek")
    message = client.send(tools=[CHAT_TOOL]).json()["choices"][0]["message"]
    assert client.send(messages=[message]).status == 200
    del message["reasoning_content"]
    assert client.send(messages=[message]).status == 400


def test_xai_leaves_reasoning_out_of_the_completion(sim: Simulator) -> None:
    client = cloud(sim, "xai", reasoning=5)
    usage = client.send().json()["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] + 5
    whole = client.send(path="/v1/responses", input="Hi").json()["usage"]
    assert whole["output_tokens"] == client.cloud.tally[1].tokens.output


def test_xai_has_errors_of_two_strings(sim: Simulator) -> None:
    client = cloud(sim, "xai")
    response = client.post(client.path, {}, key="wrong")
    assert response.status == 400
    assert response.json()["code"] == "Client specified an invalid argument"
    assert "Incorrect API key provided: wrong" in response.json()["error"]


def test_together_lists_models_without_an_envelope(sim: Simulator) -> None:
    assert isinstance(cloud(sim, "together").get("/v1/models").json(), list)


def test_together_ends_with_eos(sim: Simulator) -> None:
    assert cloud(sim, "together").send().json()["choices"][0]["finish_reason"] == "eos"


@pytest.mark.parametrize(
    ("provider", "finish"),
    [("openai", "content_filter"), ("mistral", "model_length"), ("deepseek", "insufficient_system_resource")],
)
def test_finish_reasons_on_demand(sim: Simulator, provider: str, finish: str) -> None:
    completion = cloud(sim, provider).send(f"sim-finish-{finish}").json()
    assert completion["choices"][0]["finish_reason"] == finish
