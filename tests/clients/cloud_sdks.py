"""SDKs of Groq, Mistral and Together, and LiteLLM: a chat, a stream and tools.

Arguments: SDK, base URL, key, model; further base URLs, keys and models.
"""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else LiteLLM looks for newer prices on the internet
MESSAGES = [{"role": "user", "content": "Say hello to all of us."}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "It rains.", "parameters": SCHEMA}}]


def dump(usage) -> dict:
    return usage if isinstance(usage, dict) else usage.model_dump(exclude_none=True, mode="json")


def use_groq(base_url: str, key: str, model: str) -> list[dict]:
    import groq

    create = groq.Groq(base_url=base_url, api_key=key, max_retries=0).chat.completions.create
    chunks = list(create(model=model, messages=MESSAGES, stream=True))
    called = create(model=model, messages=MESSAGES, tools=TOOLS)
    assert called.choices[0].message.tool_calls[0].function.name == "weather"
    return [create(model=model, messages=MESSAGES).usage, chunks[-1].x_groq.usage, called.usage]


def use_mistral(base_url: str, key: str, model: str) -> list[dict]:
    from mistralai.client import Mistral

    chat = Mistral(api_key=key, server_url=base_url).chat
    plain = chat.complete(model=model, messages=MESSAGES)
    chunks = [event.data for event in chat.stream(model=model, messages=MESSAGES)]
    thought = chat.complete(model=model, messages=MESSAGES, prompt_mode="reasoning")
    assert [chunk.type for chunk in thought.choices[0].message.content] == ["thinking", "text"]
    called = chat.complete(model=model, messages=MESSAGES, tools=TOOLS)
    assert called.choices[0].message.tool_calls[0].function.name == "weather"
    return [plain.usage, chunks[-1].usage, thought.usage, called.usage]


def use_together(base_url: str, key: str, model: str) -> list[dict]:
    import together

    create = together.Together(base_url=base_url, api_key=key, max_retries=0).chat.completions.create
    chunks = list(create(model=model, messages=MESSAGES, stream=True))
    called = create(model=model, messages=MESSAGES, tools=TOOLS)
    assert called.choices[0].message.tool_calls[0].function.name == "weather"
    return [create(model=model, messages=MESSAGES).usage, chunks[-1].usage, called.usage]


def use_litellm(base_url: str, key: str, model: str) -> list[dict]:
    import litellm

    litellm.suppress_debug_info = True
    common = {"api_base": base_url, "api_key": key, "model": model, "messages": MESSAGES, "num_retries": 0}
    chunks = list(litellm.completion(**common, stream=True, stream_options={"include_usage": True}))
    called = litellm.completion(**common, tools=TOOLS)
    assert called.choices[0].message.tool_calls[0].function.name == "weather"
    return [litellm.completion(**common).usage, chunks[-1].usage, called.usage]


def main(name: str, *arguments: str) -> None:
    used = {"groq": use_groq, "mistral": use_mistral, "together": use_together, "litellm": use_litellm}
    calls = zip(arguments[::3], arguments[1::3], arguments[2::3], strict=True)
    print(json.dumps({"usages": [dump(usage) for call in calls for usage in used[name](*call)]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
