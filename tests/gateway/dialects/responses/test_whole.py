"""Translation of whole chat completions to response objects."""

import json
from typing import Any

import pytest

from gateway.dialects.chat.completions import NoChatCompletion
from gateway.dialects.responses.translation import SEAL, CalledTool, ResponsesTranslation
from gateway.dialects.responses.whole import from_completion

TOOLS = {"functions__patch": CalledTool("patch", "functions", is_custom=True), "weather": CalledTool("weather")}


def call(name: str, arguments: str, call_id: str = "c1"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def translate(message: dict[str, Any], reason: str = "stop", **facts: Any):
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 1}}
    body = {"choices": [{"message": message, "finish_reason": reason}], "usage": usage}
    encoded, counts = from_completion(json.dumps(body).encode(), "m", ResponsesTranslation(tools=TOOLS, **facts))
    return json.loads(encoded), counts


def test_a_text():
    response, usage = translate({"role": "assistant", "content": "Hello."})
    assert (response["object"], response["status"], response["model"]) == ("response", "completed", "m")
    assert response["output"] == [
        {
            "id": response["output"][0]["id"],
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hello.", "annotations": []}],
        }
    ]
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 1}
    assert (usage.input_tokens, usage.output_tokens, usage.finish_reason) == (3, 2, "stop")
    assert (response["error"], response["store"]) == (None, False)
    assert response["completed_at"] >= response["created_at"]


def test_reasoning_and_calls():
    calls = [call("weather", '{"a":1}'), call("functions__patch", '{"input":"x"}', "c2"), call("weather", "", "c3")]
    message = {"content": None, "reasoning_content": "I think.", "tool_calls": calls}
    response, _ = translate(message, "tool_calls", seals=True)
    reasoning, weather, patch, bare = response["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "I think."}]
    assert reasoning["encrypted_content"] == SEAL + "I think."
    assert (weather["type"], weather["call_id"], weather["arguments"]) == ("function_call", "c1", '{"a":1}')
    assert {**patch, "id": ""} == {
        "id": "", "type": "custom_tool_call", "call_id": "c2", "name": "patch", "namespace": "functions",
        "input": "x", "status": "completed",
    }  # fmt: skip
    assert bare["arguments"] == "{}"


def test_a_summary_of_reasoning():
    response, _ = translate({"content": "Hi", "reasoning": "I think."}, summarises=True)
    assert response["output"][0]["summary"] == [{"type": "summary_text", "text": "I think."}]


def test_an_incomplete_response():
    response, usage = translate({"content": "Hel"}, "length")
    assert (response["status"], response["output"][0]["status"]) == ("incomplete", "incomplete")
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["completed_at"] is None
    assert usage.finish_reason == "length"


def test_a_refusal():
    response, _ = translate({"content": None, "refusal": "No."})
    assert response["output"][0]["content"] == [{"type": "refusal", "refusal": "No."}]


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"error":{"message":"no"}}', b'{"choices":[]}'])
def test_bodies_that_are_no_completion(body):
    with pytest.raises(NoChatCompletion):
        from_completion(body, "m", ResponsesTranslation())
