"""ollama-python calls a tool and continues with its result, complete and streamed. Arguments: host, key, model."""

import json
import sys

import ollama

MESSAGES = [{"role": "user", "content": "What is the weather in Paris?"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "The weather in a city.", "parameters": SCHEMA}


def main(host: str, key: str, model: str) -> None:
    client = ollama.Client(host=host, headers={"Authorization": f"Bearer {key}"})
    calls, reported = [], {"input": 0, "output": 0}

    def ask(messages, *, stream):
        """Return the message of a response, and add its counts."""
        given = client.chat(
            model=model,
            messages=messages,
            tools=[{"type": "function", "function": FUNCTION}],
            options={"temperature": 0, "num_predict": 60},
            stream=stream,
        )
        parts = list(given) if stream else [given]
        reported["input"] += parts[-1].prompt_eval_count
        reported["output"] += parts[-1].eval_count
        content = "".join(part.message.content or "" for part in parts)
        return content, [call.function for part in parts for call in part.message.tool_calls or ()]

    for stream in (False, True):
        _, (function,) = ask(MESSAGES, stream=stream)
        calls.append(function.model_dump())
        turn = {"role": "assistant", "content": "", "tool_calls": [{"function": function.model_dump()}]}
        result = {"role": "tool", "tool_name": function.name, "content": "Sunny."}
        text, _ = ask([*MESSAGES, turn, result], stream=stream)
    print(json.dumps({"calls": calls, "response": text, "reported": reported}))


if __name__ == "__main__":
    main(*sys.argv[1:])
