"""anthropic-python: list, messages, stream, count. Arguments: base URL (without /v1), key, model."""

import json
import sys

import anthropic

MESSAGES = [{"role": "user", "content": "Say hello in five words."}]


def main(base_url: str, key: str, model: str) -> None:
    client = anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=0)
    # At another temperature the first token may be a part of an emoji: llama.cpp then reports no input tokens.
    parameters = {"model": model, "messages": MESSAGES, "max_tokens": 8, "extra_body": {"temperature": 0}}
    reported = []

    def note(usage) -> None:
        cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
        reported.append({"input": usage.input_tokens + cached, "output": usage.output_tokens})

    assert model in [item.id for item in client.models.list()]
    message = client.messages.create(**parameters)
    assert (message.model, message.type, message.role) == (model, "message", "assistant")
    assert message.content[0].text
    note(message.usage)
    with client.messages.stream(**parameters) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert (message.model, message.content[0].text) == (model, text)
    assert message.stop_reason in ("end_turn", "max_tokens")
    note(message.usage)
    counted = client.messages.count_tokens(model=model, messages=MESSAGES).input_tokens
    print(json.dumps({"reported": reported, "counted": counted}))


if __name__ == "__main__":
    main(*sys.argv[1:])
