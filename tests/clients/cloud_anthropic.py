"""anthropic-python: messages, streams, thinking that comes back, tools, images. Arguments: base URL, key, model."""

import json
import sys

import anthropic

MESSAGES = [{"role": "user", "content": "Say hello to all of us."}]
TOOLS = [
    {
        "name": "weather",
        "description": "The weather in a city.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
CACHED = {"type": "text", "text": "A long text for the cache, read again.", "cache_control": {"type": "ephemeral"}}


def main(base_url: str, key: str, model: str) -> None:
    client = anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=0)
    common = {"model": model, "max_tokens": 200}
    usages = []

    def create(**fields):
        message = client.messages.create(**common, **fields)
        usages.append(message.usage.model_dump(exclude_none=True))
        return message

    def stream(**fields):
        with client.messages.stream(**common, **fields) as events:
            message = events.get_final_message()
        usages.append(message.usage.model_dump(exclude_none=True))
        return message

    assert create(messages=MESSAGES).content[0].text
    assert stream(messages=MESSAGES).stop_reason == "end_turn"
    create(messages=[{"role": "user", "content": [CACHED, IMAGE]}])
    stream(messages=[{"role": "user", "content": [CACHED]}])
    for send in (create, stream):
        message = send(messages=MESSAGES, tools=TOOLS, thinking={"type": "adaptive"})
        assert [block.type for block in message.content] == ["thinking", "tool_use", "tool_use"], message
        assert message.content[1].input.keys() == {"city"}
        turn = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in message.content]}
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "Sunny."}
            for block in message.content
            if block.type == "tool_use"
        ]
        messages = [*MESSAGES, turn, {"role": "user", "content": results}]
        assert send(messages=messages, tools=TOOLS, thinking={"type": "adaptive"}).stop_reason == "end_turn"
    counted = client.messages.count_tokens(model=model, messages=MESSAGES).input_tokens
    names = [item.id for item in client.models.list()]
    print(json.dumps({"usages": usages, "counted": counted, "models": names}))


if __name__ == "__main__":
    main(*sys.argv[1:])
