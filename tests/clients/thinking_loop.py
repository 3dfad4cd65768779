"""openai-python: a loop of tools with thinking, whole and streamed, at a model of Anthropic's behind RouterDash.

Arguments: base URL, key, model. The reasoning details of a response are sent back with the results of its calls.
"""

import json
import sys

import openai

MESSAGES = [{"role": "user", "content": "Say hello to all of us."}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "It rains.", "parameters": PARAMETERS}}]


def main(base_url: str, key: str, model: str) -> None:
    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    common = {"model": model, "tools": TOOLS, "reasoning_effort": "low"}
    texts = []
    for streams in (False, True):
        messages = list(MESSAGES)
        for _ in range(2):
            if streams:
                with client.chat.completions.stream(**common, messages=messages) as stream:
                    for _event in stream:
                        pass
                    message = stream.get_final_completion().choices[0].message
            else:
                message = client.chat.completions.create(**common, messages=messages).choices[0].message
            turn = message.model_dump(exclude_none=True)
            for call in turn.get("tool_calls", ()):
                call["function"].pop("parsed_arguments", None)
                assert json.loads(call["function"]["arguments"]).keys() == {"city"}, call
            turn.pop("parsed", None)
            results = [
                {"role": "tool", "tool_call_id": call.id, "content": "Sunny."} for call in message.tool_calls or ()
            ]
            messages += [turn, *results]
        texts.append([messages[1]["reasoning_content"], message.content])
    print(json.dumps(texts))


if __name__ == "__main__":
    main(*sys.argv[1:])
