"""Token counts that are read from simulated providers equal those that the simulator generated."""

from typing import Any

import pytest

from benchmarks.providers import add
from benchmarks.simulator import Simulator
from gateway.base.request_kinds import CHAT
from gateway.dialects.anthropic import messages_api
from gateway.dialects.openai_events import dialect
from gateway.dialects.openai_responses import read_response
from gateway.dialects.sse_relay import StreamRelay
from gateway.dialects.usage import Usage
from tests.benchmarks.providers.client import PROVIDERS, CloudClient

WRITES = {"openai", "azure", "openrouter", "anthropic"}  # report cache-write tokens
SILENT = {"together"}  # reports no reasoning tokens


def reported(client: CloudClient, *, stream: bool, reasons: bool, tools: bool) -> Usage:
    """Send one request, and return what the gateway reads in the response."""
    fields: dict[str, Any] = {"stream": stream, **({"tools": client.tools()} if tools else {})}
    if stream and not client.is_anthropic and client.cloud.dialect.name != "mistral":  # which has no such field
        fields["stream_options"] = {"include_usage": True}
    response = client.think(**fields) if reasons else client.send(**fields)
    assert response.status == 200, response.body
    if not stream:
        read = messages_api.read_message if client.is_anthropic else read_response
        usage = read(response.body, "")[1]
        assert usage is not None
        return usage
    relay = StreamRelay(messages_api.DIALECT if client.is_anthropic else dialect(CHAT), "", hide_usage=False)
    relay.feed(response.body)
    relay.end()
    assert relay.usage is not None
    assert relay.finish_reason is not None
    return relay.usage.ended_by(relay.finish_reason)


@pytest.mark.parametrize("tools", [False, True], ids=["text", "tools"])
@pytest.mark.parametrize("reasons", [False, True], ids=["at once", "reasoning"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_counts_of_a_provider(sim: Simulator, provider: str, stream: bool, reasons: bool, tools: bool) -> None:
    client = CloudClient(add(sim, provider))
    usage = reported(client, stream=stream, reasons=reasons, tools=tools)
    made = client.cloud.tally[-1].tokens
    assert usage == Usage(
        made.input,
        made.output,
        made.cached,
        made.written if provider in WRITES else None,
        None if provider in SILENT or (provider == "anthropic" and not reasons) else made.reasoning,
        "tool_calls" if tools else "stop",
    )


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("provider", sorted(set(PROVIDERS) - {"anthropic"}))  # which counts the cache apart
def test_more_cached_tokens_than_input_are_a_fault(sim: Simulator, provider: str, stream: bool) -> None:
    client = CloudClient(add(sim, provider, usage="cached_over"))
    usage = reported(client, stream=stream, reasons=False, tools=False)
    assert usage.is_damaged
    assert usage.cached_tokens == usage.input_tokens == client.cloud.tally[-1].tokens.input
