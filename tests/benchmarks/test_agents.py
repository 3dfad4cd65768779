"""The usage that benchmarks.agents reads from what llama.cpp sends, streamed and whole, of its three APIs."""

import pytest

from benchmarks.agents.tap import usage_of
from tests.gateway import captures


@pytest.mark.parametrize(
    "name", ["chat", "chat_stream_usage", "messages", "messages_stream", "responses", "responses_stream"]
)
def test_usage_of_real_responses(name: str) -> None:
    capture = captures.load("llama.cpp", name)
    read, written, cached = usage_of(capture.body) or (0, 0, 0)
    assert (read > 0, written > 0, 0 <= cached <= read) == (True, True, True)


def test_there_may_be_no_usage() -> None:
    assert usage_of(b'{"error":{"message":"no"}}') is None
