import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.base.bounds import TRANSLATED_REQUEST
from gateway.base.errors import Refusal
from gateway.dialects.anthropic.requests import reading_prompt, translating
from gateway.dialects.chat.bodies import MAX_COSTLY_BYTES
from gateway.loop.time_slices import run_unsliced
from tests.cpu_time import longest_slice_ms
from tests.gateway.anything import OBJECTS, shape

HELLO = {"role": "user", "content": "hello"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
IMAGE_URL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOL = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {}}}


def to_chat(body, model):
    return run_unsliced(translating(body, model))


def tokenize_prompt(body):
    return run_unsliced(reading_prompt(body))


def text(value):
    return {"type": "text", "text": value}


def result(*content, id="call_1", **fields):
    return {"type": "tool_result", "tool_use_id": id, "content": list(content), **fields}


EPHEMERAL = {"cache_control": {"type": "ephemeral"}}


def translate(messages=(HELLO,), **fields):
    body = {"model": "asked", "max_tokens": 16, "messages": list(messages), **fields}
    return json.loads(to_chat(json.dumps(body).encode(), "known"))


def turn(*content, role="user"):
    """Translate one turn and return its messages."""
    return translate([{"role": role, "content": list(content)}])["messages"]


def refused(body):
    with pytest.raises(Refusal) as caught:
        to_chat(body if isinstance(body, bytes) else json.dumps(body).encode(), "known")
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")
    return caught.value


# Fields


def test_a_minimal_request():
    assert translate() == {"model": "known", "messages": [HELLO], "max_tokens": 16}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"temperature": 0.5}, {"temperature": 0.5}),
        ({"top_p": 1, "top_k": 40}, {"top_p": 1, "top_k": 40}),
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"stop_sequences": []}, {}),
        ({"metadata": {"user_id": "u-1"}}, {"user": "u-1"}),
        ({"metadata": {"user_id": None}}, {}),
        ({"metadata": None, "system": None, "tools": None, "stream": None}, {}),
        ({"stream": False}, {}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}, "service_tier": "auto"}, {}),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
    ],
)
def test_fields(fields, wanted):
    assert translate(**fields) == {**translate(), **wanted}


@pytest.mark.parametrize("system", ["Be brief.", [text("Be brief.") | {"cache_control": {"type": "ephemeral"}}]])
def test_the_system_prompt_comes_first(system):
    assert translate(system=system)["messages"] == [{"role": "system", "content": "Be brief."}, HELLO]


def test_a_system_prompt_of_several_blocks():
    assert translate(system=[text("a"), text("b")])["messages"][0]["content"] == "a\nb"


def test_an_empty_system_prompt_is_none():
    assert translate(system="")["messages"] == [HELLO]


# Turns


def test_turns_follow_each_other():
    messages = [HELLO, {"role": "assistant", "content": "hi"}, HELLO]
    assert translate(messages)["messages"] == messages


def test_system_turns_become_part_of_the_system_prompt():
    """Many chat templates refuse a system message that is not the first one."""
    turns = [HELLO, {"role": "system", "content": [text("a")]}, HELLO, {"role": "system", "content": "b"}]
    assert translate(turns, system="s")["messages"] == [{"role": "system", "content": "s\na\nb"}, HELLO, HELLO]
    assert translate(turns)["messages"] == [{"role": "system", "content": "a\nb"}, HELLO, HELLO]


def test_a_request_as_claude_code_sends_it():
    body = translate(
        [{"role": "user", "content": [text("Hi") | EPHEMERAL]}, {"role": "system", "content": "the environment"}],
        system=[text("x-anthropic-billing-header: cc_version=2.1.197.d51;"), text("You are an agent.") | EPHEMERAL],
        thinking={"type": "adaptive", "display": "omitted"},
        output_config={"effort": "xhigh"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        tools=[{"name": "look", "input_schema": {"type": "object"}, "defer_loading": True}],
    )
    assert body["messages"] == [
        {"role": "system", "content": "You are an agent.\nthe environment"},
        {"role": "user", "content": "Hi"},
    ]
    assert body["reasoning_effort"] == "high"
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    assert body["tools"] == [tool]
    assert body.keys() == {"model", "messages", "max_tokens", "reasoning_effort", "tools"}


def test_a_system_prompt_of_one_block_is_kept():
    first = "x-anthropic-billing-header: x"
    assert translate(system=[text(first)])["messages"][0]["content"] == first


def test_a_message_of_text_only_is_a_string():
    assert turn(text("a"), text("b")) == [{"role": "user", "content": "a\nb"}]


def test_images_stay_where_they_are():
    url = "https://example.org/a.png"
    parts = [text("this"), IMAGE_URL, text("and"), {"type": "image_url", "image_url": {"url": url}}]
    image = {"type": "image", "source": {"type": "url", "url": url}}
    assert turn(text("this"), IMAGE, text("and"), image) == [{"role": "user", "content": parts}]


@pytest.mark.parametrize(
    "source",
    [
        {"type": "text", "media_type": "text/plain", "data": "body"},
        {"type": "content", "content": "body"},
        {"type": "content", "content": [text("body")]},
    ],
)
def test_a_document_of_text(source):
    assert turn({"type": "document", "source": source}) == [{"role": "user", "content": "body"}]


def test_a_document_has_a_title_and_a_context():
    source = {"type": "text", "media_type": "text/plain", "data": "body"}
    document = {"type": "document", "source": source, "title": "title", "context": "context"}
    assert turn(document)[0]["content"] == "title\ncontext\nbody"


def test_a_search_result():
    search_result = {"type": "search_result", "title": "title", "source": "where", "content": [text("body")]}
    assert turn(search_result)[0]["content"] == "title\nwhere\nbody"


def test_tool_calls():
    use = {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": [1, 2.50]}}
    (message,) = turn(text("Let me see."), use, use | {"id": "call_2", "input": {}}, role="assistant")
    assert message == {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": [1, 2.5]}'}},
            {"id": "call_2", "type": "function", "function": {"name": "look", "arguments": "{}"}},
        ],
    }


def test_a_tool_call_without_text_has_no_content():
    (message,) = turn({"type": "tool_use", "id": "c", "name": "look", "input": {}}, role="assistant")
    assert message["content"] is None


def test_the_arguments_of_a_tool_call_are_unchanged():
    use = b'{"type":"tool_use","id":"c","name":"n","input":{"a":123456789012345678901234567890,"b":1.50}}'
    body = b'{"model":"m","max_tokens":1,"messages":[{"role":"assistant","content":[%b]}]}' % use
    call = json.loads(to_chat(body, "m"))["messages"][0]["tool_calls"][0]
    assert call["function"]["arguments"] == '{"a":123456789012345678901234567890,"b":1.50}'


def test_thinking_is_left_out():
    thought = {"type": "thinking", "thinking": "hm", "signature": "x"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    assert turn(thought, hidden, text("so"), role="assistant") == [{"role": "assistant", "content": "so"}]
    assert turn(thought, role="assistant") == [{"role": "assistant", "content": ""}]


def test_tool_results_come_before_the_other_content_of_a_turn():
    assert turn(text("and now?"), result(text("a")), result(text("b"), id="call_2"), text("go on")) == [
        {"role": "tool", "tool_call_id": "call_1", "content": "a"},
        {"role": "tool", "tool_call_id": "call_2", "content": "b"},
        {"role": "user", "content": "and now?\ngo on"},
    ]


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({"content": "plain"}, "plain"),
        ({"content": [text("a"), text("b")]}, "a\nb"),
        ({"content": []}, ""),
        ({"content": None}, ""),
        ({}, ""),
        ({"content": "gone", "is_error": True}, "Error: gone"),
        ({"is_error": True}, "Error"),
        ({"content": "fine", "is_error": False}, "fine"),
    ],
)
def test_the_text_of_a_tool_result(fields, content):
    messages = turn({"type": "tool_result", "tool_use_id": "c", **fields})
    assert messages == [{"role": "tool", "tool_call_id": "c", "content": content}]


def test_images_of_tool_results_follow_in_a_user_message():
    assert turn(result(text("seen"), IMAGE), result(IMAGE, id="call_2"), text("well?")) == [
        {"role": "tool", "tool_call_id": "call_1", "content": "seen"},
        {"role": "tool", "tool_call_id": "call_2", "content": "(an image, in the next message)"},
        {"role": "user", "content": [IMAGE_URL, IMAGE_URL, text("well?")]},
    ]


def test_an_empty_turn_stays_a_turn():
    assert turn() == [{"role": "user", "content": ""}]


# Tools


def test_tools():
    wanted = {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}
    assert translate(tools=[TOOL])["tools"] == [{"type": "function", "function": wanted}]


@pytest.mark.parametrize("kind", ["custom", None])
def test_a_tool_may_have_type_custom(kind):
    assert translate(tools=[TOOL | {"type": kind, "strict": True}])["tools"][0]["function"]["strict"] is True


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "look"}, {"tool_choice": {"type": "function", "function": {"name": "look"}}}),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
        ({"type": "any", "disable_parallel_tool_use": False}, {"tool_choice": "required"}),
        (None, {}),
    ],
)
def test_tool_choice(choice, wanted):
    assert translate(tools=[TOOL], tool_choice=choice) == {**translate(tools=[TOOL]), **wanted}


@pytest.mark.parametrize("kind", ["auto", "none"])
def test_tool_choice_without_tools_is_left_out(kind):
    assert translate(tool_choice={"type": kind}, tools=[]) == translate()


# Refused requests

LEAST = {"model": "m", "max_tokens": 1, "messages": [HELLO]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 0}, "`max_tokens`: Expected `int` >= 1."),
        ({"max_tokens": None}, "`max_tokens`: Expected `int`, got `null`."),
        ({"max_tokens": True}, "`max_tokens`: Expected `int`, got `bool`."),
        ({"max_tokens": 10**30}, "`max_tokens`: Expected `int`"),
        ({"model": None}, "`model`: Expected `str`"),
        ({"messages": []}, "`messages`: Expected `array` of length >= 1."),
        ({"messages": "hello"}, "`messages`: Expected `array`"),
        ({"messages": [5]}, "`messages[0]`: Expected `object`"),
        ({"messages": [{"content": "a"}]}, "`messages[0]`: Object missing required field `role`."),
        ({"messages": [HELLO | {"role": "tool"}]}, "`messages[0].role`: must be user or assistant, not 'tool'."),
        ({"messages": [HELLO, {"role": "user"}]}, "`messages[1]`: Object missing required field `content`."),
        ({"tool_choice": {"type": "any"}}, "`tool_choice` requires a tool, but there are no `tools`."),
        ({"tools": [{"name": "n"}]}, "`tools[0].input_schema` is missing."),
        ({"tools": [TOOL | {"input_schema": []}]}, "`tools[0].input_schema`: Expected `object`"),
        ({"stream": "yes"}, "`stream`: Expected `bool | null`"),
        ({"stop_sequences": "a"}, "`stop_sequences`: Expected"),
        ({"temperature": "hot"}, "`temperature`: Expected"),
    ],
)
def test_an_error_is_reported_with_its_place(fields, message):
    assert refused(LEAST | fields).message.startswith(message)


@pytest.mark.parametrize(
    ("block", "place"),
    [
        ({"type": "container_upload", "file_id": "x"}, "messages[0].content[0].type"),
        ({"type": "tool_use", "id": "c", "name": "n", "input": {}}, "messages[0].content[0].type"),
        ({"type": "image", "source": {"type": "file", "file_id": "x"}}, "messages[0].content[0].source.type"),
        ({"type": "document", "source": {"type": "base64", "data": ""}}, "messages[0].content[0].source.type"),
        (result({"type": "tool_reference", "tool_name": "n"}), "messages[0].content[0].content[0].type"),
        ({"type": "x" * 1000}, "messages[0].content[0].type"),
    ],
)
def test_an_untranslatable_block_is_reported_with_its_place(block, place):
    refusal = refused(LEAST | {"messages": [{"role": "user", "content": [block]}]})
    assert refusal.message.startswith(f"`{place}`: '")
    assert "is not supported by this endpoint" in refusal.message
    assert len(refusal.message) < 200
    assert refusal.param == "messages"


def test_a_tool_defined_by_anthropic_is_reported_with_its_place():
    refusal = refused(LEAST | {"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}]})
    assert refusal.message.startswith("`tools[1].type`: 'web_search_20250305' is not supported by this endpoint")


@pytest.mark.parametrize("name", ["model", "max_tokens", "messages"])
def test_a_missing_field_is_named(name):
    body = {key: value for key, value in LEAST.items() if key != name}
    assert refused(body).message == f"Object missing required field `{name}`."


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b'{"model":"\xff"}', b'{"model":"m","x":' + b"[" * 200_000],
)
def test_invalid_json_is_reported(body):
    assert refused(body).message.startswith("The body is not valid JSON: ")


@pytest.mark.parametrize("body", [b"[]", b"5", b"null"])
def test_a_body_that_is_not_an_object_is_reported(body):
    assert refused(body).message == "The body must be a JSON object."


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","max_tokens":1,"messages":[{"role":"assistant","content":'
        b'[{"type":"tool_use","id":"c","name":"n","input":{"a":"\xff"}}]}]}',
        b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"a"}],'
        b'"tools":[{"name":"n","input_schema":{"a":"\xff"}}]}',
        b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"a"}],'
        b'"output_config":{"format":{"type":"json_schema","schema":{"a":"\xff"}}}}',
    ],
)
def test_invalid_utf8_is_reported_even_in_unused_fields(body):
    assert refused(body).message.startswith("The body is not valid JSON: ")


def test_the_tokens_of_invalid_utf8_are_not_counted():
    body = (
        b'{"model":"m","messages":[{"role":"user","content":"a"}],"tools":[{"name":"n","input_schema":{"a":"\xff"}}]}'
    )
    with pytest.raises(Refusal, match="not valid JSON"):
        tokenize_prompt(body)


def test_half_of_an_emoji_is_replaced():
    body = b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"a\\ud83d"}]}'
    assert json.loads(to_chat(body, "m"))["messages"][0]["content"] == "a\ufffd"


# Any request

TEXTS = st.fixed_dictionaries({"type": st.just("text"), "text": st.text()})
SOURCES = shape(
    type=st.sampled_from(["base64", "url", "text", "content", "file"]),
    media_type=st.text(),
    data=st.text(),
    url=st.text(),
    content=st.text() | st.lists(TEXTS, max_size=2),
)
BLOCKS = TEXTS | shape(
    type=st.sampled_from(["text", "image", "document", "search_result", "tool_result", "tool_use", "thinking", "new"]),
    text=st.text(),
    source=SOURCES,
    title=st.text(),
    id=st.text(),
    name=st.text(),
    input=OBJECTS,
    tool_use_id=st.text(),
    content=st.text() | st.lists(TEXTS | shape(type=st.just("image"), source=SOURCES), max_size=2),
    is_error=st.booleans(),
)
TURNS = shape(
    role=st.sampled_from(["user", "assistant", "system", "tool"]), content=st.text() | st.lists(BLOCKS, max_size=3)
)
BODIES = shape(
    model=st.text(),
    max_tokens=st.integers(),
    messages=st.lists(st.just(HELLO) | TURNS, max_size=3),
    system=st.text() | st.lists(BLOCKS, max_size=2),
    tools=st.lists(shape(name=st.text(), input_schema=OBJECTS, type=st.just("custom")), max_size=2),
    tool_choice=shape(type=st.sampled_from(["auto", "any", "tool", "none"]), name=st.text()),
    stop_sequences=st.lists(st.text(), max_size=2),
    top_k=st.integers(),
    metadata=OBJECTS,
    output_config=OBJECTS,
    stream=st.booleans(),
)
ANYTHING = BODIES | st.builds(lambda fields: {**LEAST, **fields}, BODIES)


def outcome(function, *arguments):
    try:
        return function(*arguments)
    except Refusal as refusal:
        return refusal


@given(st.binary() | ANYTHING.map(lambda body: json.dumps(body).encode()))
def test_any_request_is_translated_or_refused(body):
    translated = outcome(to_chat, body, "known")
    if isinstance(translated, Refusal):
        assert (translated.status, 0 < len(translated.message) < 300) == (400, True)
    else:
        roles = {message["role"] for message in json.loads(translated)["messages"]}
        assert roles <= {"system", "user", "assistant", "tool"}


@given(ANYTHING)
def test_the_text_of_any_prompt_is_extracted_or_refused(body):
    assert isinstance(outcome(tokenize_prompt, json.dumps(body).encode()), str | Refusal)


# The text of a prompt


def test_the_text_of_a_prompt():
    use = {"type": "tool_use", "id": "c", "name": "look", "input": {"at": 1}}
    messages = [
        {"role": "user", "content": [text("what is"), IMAGE]},
        {"role": "assistant", "content": [text("let me"), use]},
        {"role": "user", "content": [result(text("seen"), id="c")]},
    ]
    body = json.dumps({"model": "m", "system": "brief", "tools": [TOOL], "messages": messages})
    schema = json.dumps(TOOL["input_schema"])
    lines = tokenize_prompt(body.encode()).split("\n")
    assert lines[:2] == ["look", "Looks."]
    assert json.loads(lines[2]) == json.loads(schema)
    assert lines[3:] == ["brief", "what is", "let me", "look", '{"at": 1}', "seen"]


def test_a_count_needs_no_max_tokens():
    assert tokenize_prompt(b'{"model":"m","messages":[{"role":"user","content":"hello"}]}') == "hello"


# Slow requests


ASKED = b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"a"}]'
BLOCK = b'{"type":"text","text":"a"},'


def request_of(blocks):
    return b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[%b]}]}' % blocks.removesuffix(b",")


@pytest.mark.parametrize(
    "body",
    [
        request_of(BLOCK * 150_000),
        request_of(b'{"type":"text","text":"%b"}' % (b"\\n" * (MAX_COSTLY_BYTES + 1))),
        ASKED + b',"tools":[{"name":"n","input_schema":{"k":1%b}}]}' % (b',"k":1' * 400_000),
        ASKED + b',"stop_sequences":[""%b]}' % (b',""' * 900_000),
    ],
    ids=["blocks", "escapes", "names", "stop sequences"],
)
def test_a_request_that_is_too_long_to_be_translated_is_refused_by_its_limit(body):
    with pytest.raises(Refusal) as refused:
        to_chat(body, "up")
    assert (refused.value.status, refused.value.bound) == (413, TRANSLATED_REQUEST)
    assert "only chat completions" in refused.value.message


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    "body",
    [
        request_of(BLOCK * 19_000),
        request_of(BLOCK * 150_000),
        request_of(b'{"type":"text","text":"%b"}' % (b"\\n" * 2_500_000)),
        request_of(b'{"type":"text","text":"%b"}' % ("あ".encode() * 1_900_000)),
        request_of(b'{"type":"text","text":"%b"}' % (b"a" * 20_000_000)),
        request_of(b'{"type":"text","text":"%b\\ud800"}' % (b"\\u3042" * 700_000)),
    ],
    ids=["few blocks", "many blocks", "escapes", "another script", "plain text", "half a pair"],
)
@pytest.mark.parametrize("work", [lambda body: translating(body, "up"), reading_prompt], ids=["chat", "prompt"])
def test_no_slice_of_a_translation_takes_50_ms_of_cpu(body, work):
    assert longest_slice_ms(work(body)) < 50


def test_a_big_request_is_translated_like_a_small_one():
    blocks = BLOCK * 19_000 + b'{"type":"image","source":{"type":"base64","media_type":"image/png","data":"%b"}},' % (
        b"A" * 3_000_000
    )
    chat = json.loads(to_chat(request_of(blocks + b'{"type":"text","text":"cut \\ud83d"}'), "up"))
    parts = chat["messages"][0]["content"]
    assert [part["type"] for part in parts[-3:]] == ["text", "image_url", "text"]
    assert parts[-2]["image_url"]["url"] == "data:image/png;base64," + "A" * 3_000_000
    assert parts[-1]["text"] == "cut \ufffd"


USE = {"type": "tool_use", "id": "c", "name": "n"}


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"tools": [TOOL | {"input_schema": [1]}]}, "tools[0].input_schema"),
        ({"output_config": {"format": {"type": "json_schema", "schema": 1}}}, "output_config.format.schema"),
        ({"messages": [{"role": "assistant", "content": [USE | {"input": []}]}]}, "messages[0].content[0].input"),
    ],
)
def test_a_value_that_must_be_an_object_is_reported_with_its_place(fields, place):
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}], **fields}
    with pytest.raises(Refusal, match="Expected `object`") as refused:
        to_chat(json.dumps(body).encode(), "up")
    assert f"`{place}`" in refused.value.message


@pytest.mark.parametrize(
    ("effort", "sent"),
    [("low", "low"), ("high", "high"), ("xhigh", "high"), ("max", "high"), ("new", None), (None, None)],
)
def test_the_effort_is_passed_on_as_far_as_servers_know_it(effort, sent):
    assert translate(output_config={"effort": effort}).get("reasoning_effort") == sent
