"""Translation of streams of chunks to events of Responses."""

import json
from typing import Any

import msgspec
import pytest

from gateway.dialects.chat.completions import MAX_CALLS
from gateway.dialects.chat.relay import TranslatingRelay
from gateway.dialects.responses.objects import is_unstored
from gateway.dialects.responses.stream import MAX_OUTPUT, ResponseEvents
from gateway.dialects.responses.translation import SEAL, CalledTool, ResponsesTranslation
from gateway.dialects.sse_relay import EventTooLong

TOOLS = {
    "weather": CalledTool("weather"),
    "functions__weather": CalledTool("weather", "functions"),
    "apply_patch": CalledTool("apply_patch", "", is_custom=True),
}
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def chunk(delta: Any = None, reason: str | None = None, **fields: Any) -> bytes:
    choices = [{"index": 0, "delta": delta or {}, "finish_reason": reason}]
    return b"data: " + json.dumps({"id": "c", "choices": choices, **fields}).encode() + b"\n\n"


def text(piece: str) -> bytes:
    return chunk({"content": piece})


def part_of_call(index: int = 0, name: str | None = None, arguments: str = "", call_id: str | None = None) -> bytes:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    call = {"index": index, "function": function, **({"id": call_id, "type": "function"} if call_id else {})}
    return chunk({"tool_calls": [call]})


END = chunk(reason="stop")
COUNTED = b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + b"\n\n"
DONE = b"data: [DONE]\n\n"


def play(*chunks: bytes, **facts: Any):
    relay = TranslatingRelay("m", ResponseEvents("m", ResponsesTranslation(tools=TOOLS, **facts)))
    sent = b"".join([relay.feed(data) for data in chunks])
    relay.end()
    return relay, read(sent + relay.held)


def read(events: bytes):
    decoded_events = []
    for event in events.split(b"\n\n"):
        if event and not event.startswith(b":"):
            name, data = event.split(b"\n")
            decoded = json.loads(data.removeprefix(b"data: "))
            assert name.decode() == f"event: {decoded['type']}"
            decoded_events.append(decoded)
    return decoded_events


def types(events) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def last(*chunks: bytes, **facts: Any):
    return play(*chunks, **facts)[1][-1]["response"]


def test_the_documented_sequence_of_a_text():
    relay, events = play(chunk({"role": "assistant", "content": ""}), text("Hel"), text("lo."), END, COUNTED, DONE)
    assert types(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(10))
    created, _, added, part, delta, _, done, part_done, item_done, completed = events
    assert created["response"]["status"] == "in_progress"
    assert added["item"] == {
        "id": added["item"]["id"], "type": "message", "role": "assistant", "status": "in_progress", "content": [],
    }  # fmt: skip
    place = {"item_id": added["item"]["id"], "output_index": 0, "content_index": 0}
    assert part == {**part, **place, "part": {"type": "output_text", "text": "", "annotations": []}}
    assert delta == {**delta, **place, "delta": "Hel", "logprobs": []}
    assert done == {**done, **place, "text": "Hello.", "logprobs": []}
    assert part_done["part"]["text"] == "Hello."
    response = completed["response"]
    assert response["output"] == [item_done["item"]]
    assert item_done["item"]["status"] == response["status"] == "completed"
    assert (response["id"], response["model"], response["store"]) == (created["response"]["id"], "m", False)
    assert is_unstored(response["id"])
    assert response["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 14,
    }
    assert (relay.whole, relay.finish_reason, relay.deltas) == (True, "stop", 2)


@pytest.mark.parametrize(
    ("summarises", "added", "kind"),
    [(True, "reasoning_summary_part", "reasoning_summary_text"), (False, "content_part", "reasoning_text")],
)
def test_the_documented_sequence_of_reasoning(summarises, added, kind):
    _, events = play(
        chunk({"reasoning_content": "I "}),
        chunk({"reasoning": "think."}),
        text("Hi"),
        END,
        DONE,
        summarises=summarises,
        seals=True,
    )
    assert types(events)[2:9] == [
        "output_item.added", f"{added}.added", f"{kind}.delta", f"{kind}.delta", f"{kind}.done", f"{added}.done",
        "output_item.done",
    ]  # fmt: skip
    assert events[2]["item"] == {"id": events[2]["item"]["id"], "type": "reasoning", "summary": []}
    index = "summary_index" if summarises else "content_index"
    assert (events[4]["delta"], events[4][index], events[6]["text"]) == ("I ", 0, "I think.")
    reasoning, message = events[-1]["response"]["output"]
    parts = reasoning["summary"] if summarises else reasoning["content"]
    assert parts == [{"type": "summary_text" if summarises else "reasoning_text", "text": "I think."}]
    assert reasoning["encrypted_content"] == SEAL + "I think."
    assert (message["type"], events[9]["output_index"]) == ("message", 1)


def test_the_documented_sequence_of_calls():
    _, events = play(
        text("Let me see."),
        part_of_call(0, "functions__weather", "", "c1"),
        part_of_call(0, arguments='{"city":'),
        part_of_call(0, arguments='"Paris"}'),
        part_of_call(1, "weather", "{}", "c2"),
        chunk(reason="tool_calls"),
        DONE,
    )
    assert (
        types(events)[6:]
        == [
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ][-len(types(events)[6:]) :]
    )
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"][1]
    assert {**added, "id": ""} == {
        "id": "", "type": "function_call", "call_id": "c1", "name": "weather", "namespace": "functions",
        "arguments": "", "status": "in_progress",
    }  # fmt: skip
    first, second = events[-1]["response"]["output"][1:]
    assert (first["arguments"], first["status"], first["call_id"]) == ('{"city":"Paris"}', "completed", "c1")
    assert (second["name"], second["call_id"], "namespace" in second) == ("weather", "c2", False)


def test_fragments_of_calls_that_are_mixed():
    response = last(
        part_of_call(0, "weather", '{"a":', "c1"),
        part_of_call(1, "weather", '{"b":', "c2"),
        part_of_call(0, arguments="1}"),
        part_of_call(1, arguments="2}"),
        chunk(reason="tool_calls"),
    )
    assert [item["arguments"] for item in response["output"]] == ['{"a":1}', '{"b":2}']


def test_calls_that_all_have_the_index_0():
    response = last(part_of_call(0, "weather", '{"a":1}', "c1"), part_of_call(0, "weather", '{"b":2}', "c2"), END)
    assert [(item["call_id"], item["arguments"]) for item in response["output"]] == [
        ("c1", '{"a":1}'),
        ("c2", '{"b":2}'),
    ]


def test_a_call_without_an_id_and_arguments_and_with_an_invented_name():
    (item,) = last(part_of_call(0, "invented"), END)["output"]
    assert (item["name"], item["arguments"], item["type"]) == ("invented", "{}", "function_call")
    assert item["call_id"].startswith("call_")


def test_a_call_of_a_custom_tool():
    _, events = play(part_of_call(0, "apply_patch", '{"input":"a ', "c1"), part_of_call(0, arguments='b"}'), END, DONE)
    assert types(events)[2:] == [
        "output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    assert (events[3]["delta"], events[4]["input"]) == ("a b", "a b")
    assert events[2]["item"]["type"] == "custom_tool_call"
    assert events[-1]["response"]["output"][0]["input"] == "a b"


def test_text_after_a_call_waits_for_its_end():
    """Codex counts a delta for the item that began last."""
    _, events = play(
        part_of_call(0, "weather", '{"a"', "c1"), text("So "), text("so."), part_of_call(0, arguments=":1}"), END
    )
    kinds = types(events)
    assert kinds.index("output_item.done") < kinds.index("output_text.delta")
    call, message = events[-1]["response"]["output"]
    assert (call["arguments"], message["content"][0]["text"]) == ('{"a":1}', "So so.")


def test_a_refusal():
    _, events = play(text("No. "), chunk({"refusal": "I cannot."}), END)
    assert [kind for kind in types(events) if kind.startswith("refusal")] == ["refusal.delta", "refusal.done"]
    parts = events[-1]["response"]["output"][0]["content"]
    assert [part["type"] for part in parts] == ["output_text", "refusal"]
    assert parts[1]["refusal"] == "I cannot."
    assert [event["content_index"] for event in events if event["type"].startswith("response.refusal")] == [1, 1]


@pytest.mark.parametrize(
    ("reason", "status", "details"),
    [
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
        ("stop", "completed", None),
        ("unheard_of", "completed", None),
    ],
)
def test_the_reason_of_the_end(reason, status, details):
    _, events = play(text("Hi"), chunk(reason=reason), DONE)
    response = events[-1]["response"]
    assert events[-1]["type"] == f"response.{status}"
    assert (response["status"], response["incomplete_details"], response["output"][0]["status"]) == (
        status,
        details,
        status,
    )


def test_a_response_that_a_fault_has_ended():
    _, events = play(text("Hi"), chunk(reason="insufficient_system_resource"), DONE)
    assert (events[-1]["type"], events[-1]["response"]["error"]["code"]) == ("response.failed", "server_error")


def test_an_empty_response():
    assert last(END, DONE)["output"] == []
    assert types(play(DONE)[1]) == ["created", "in_progress", "completed"]


def test_a_stream_without_usage_has_none():
    assert last(text("Hi"), END, DONE)["usage"] is None


def test_usage_that_comes_after_the_end_is_in_the_last_event():
    relay, events = play(text("Hi"), END, COUNTED)
    assert (events[-1]["response"]["usage"]["output_tokens"], relay.usage.cached_tokens) == (5, 4)
    assert len([event for event in events if event["type"] == "response.completed"]) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"message": "broken"}, "server_error"),
        ({"message": "slow down", "code": 429}, "rate_limit_exceeded"),
        ({"message": "slow down", "code": "rate_limit_exceeded"}, "rate_limit_exceeded"),
        ({"message": "too long", "type": "exceed_context_size_error", "code": 400}, "context_length_exceeded"),
    ],
)
def test_an_error_in_mid_stream_is_response_failed(error, code):
    """Codex ignores an event `error`."""
    data = b"data: " + json.dumps({"error": error}).encode() + b"\n\n"
    relay, events = play(text("Hi"), data, text("later"), DONE)
    assert types(events)[-1] == "failed"
    assert events[-1]["response"]["error"] == {"code": code, "message": error["message"]}
    assert events[-1]["response"]["id"] == events[0]["response"]["id"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert relay.error.sentence == error["message"]


def test_fields_of_the_request_are_repeated():
    response = last(
        text("Hi"), END, echoed={"instructions": msgspec.Raw(b'"Be short."'), "tools": msgspec.Raw(b'[{"type":"x"}]')}
    )
    assert (response["instructions"], response["tools"]) == ("Be short.", [{"type": "x"}])
    assert (response["tool_choice"], response["metadata"]) == ("auto", {})


def test_the_output_is_bounded():
    relay = TranslatingRelay("m", ResponseEvents("m", ResponsesTranslation()))
    half = text("x" * (MAX_OUTPUT // 2))
    relay.feed(half)
    relay.feed(half)
    with pytest.raises(EventTooLong):
        relay.feed(text("x"))


def test_the_number_of_calls_is_bounded():
    relay = TranslatingRelay("m", ResponseEvents("m", ResponsesTranslation()))
    for number in range(MAX_CALLS):
        relay.feed(part_of_call(0, "weather", "{}", f"c{number}"))
    with pytest.raises(EventTooLong):
        relay.feed(part_of_call(0, "weather", "{}", "last"))


def test_other_choices_are_ignored():
    other = b'data: {"choices":[{"index":1,"delta":{"content":"no"}}]}\n\n'
    assert last(text("Hi"), other, END, DONE)["output"][0]["content"][0]["text"] == "Hi"
