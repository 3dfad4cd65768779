"""anthropic-python calls a tool, complete and streamed, and sends its result. Arguments: URL, key, model."""

import json
import sys

import anthropic

MESSAGES = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOL = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def main(base_url: str, key: str, model: str) -> None:
    client = anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=0)
    first = {"model": model, "max_tokens": 60, "tools": [TOOL], "tool_choice": {"type": "any"}}
    first["extra_body"] = {"temperature": 0}
    message = client.messages.create(messages=MESSAGES, **first)
    with client.messages.stream(messages=MESSAGES, **first) as stream:
        streamed = stream.get_final_message()
    assert (message.stop_reason, streamed.stop_reason) == ("tool_use", "tool_use")
    block = message.content[0]
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "Sunny."}
    turns = [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    response = client.messages.create(messages=[*MESSAGES, *turns], **first)
    calls = [{"name": reply.content[0].name, "arguments": reply.content[0].input} for reply in (message, streamed)]
    print(json.dumps({"calls": calls, "response": response.content[0].text}))


if __name__ == "__main__":
    main(*sys.argv[1:])
