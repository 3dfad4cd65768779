"""openai-python calls a tool in chats and responses, complete and streamed. Arguments: base URL, key, model."""

import json
import sys

import openai

MESSAGES = [{"role": "user", "content": "What is the weather in Paris?"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "The weather in a city.", "parameters": SCHEMA}


def main(base_url: str, key: str, model: str) -> None:
    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    chat = {
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": "required",
        "max_tokens": 60,
        "temperature": 0,
    }
    response = client.chat.completions.create(model=model, messages=MESSAGES, **chat)
    assert response.choices[0].finish_reason == "tool_calls"
    message = response.choices[0].message
    call = message.tool_calls[0]
    calls = [_with_result(call.function)]
    turns = [*MESSAGES, message, {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}]
    rest = {**chat, "tool_choice": "auto"}
    text = client.chat.completions.create(model=model, messages=turns, **rest).choices[0].message.content
    with client.chat.completions.stream(model=model, messages=MESSAGES, **chat) as stream:
        for _ in stream:
            pass
        calls.append(_with_result(stream.get_final_completion().choices[0].message.tool_calls[0].function))
    other = {
        "tools": [{"type": "function", **FUNCTION}],
        "tool_choice": "required",
        "max_output_tokens": 60,
        "temperature": 0,
    }
    response = client.responses.create(model=model, input="What is the weather in Paris?", **other)
    calls.append(_with_result(next(item for item in response.output if item.type == "function_call")))
    with client.responses.stream(model=model, input="What is the weather in Paris?", **other) as stream:
        response = stream.get_final_response()
    calls.append(_with_result(next(item for item in response.output if item.type == "function_call")))
    print(json.dumps({"calls": calls, "response": text}))


def _with_result(function):
    return {"name": function.name, "arguments": json.loads(function.arguments)}


if __name__ == "__main__":
    main(*sys.argv[1:])
