"""langchain-openai calls a tool, complete and streamed, and sends its result. Arguments: base URL, key, model."""

import json
import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

QUESTION = HumanMessage("What is the weather in Paris?")
TOOL = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def main(base_url: str, key: str, model: str) -> None:
    chat = ChatOpenAI(base_url=base_url, api_key=key, model=model, max_retries=0, temperature=0, max_tokens=60)
    chat = chat.bind_tools([{"type": "function", "function": TOOL}], tool_choice="required")
    message = chat.invoke([QUESTION])
    first, *others = chat.stream([QUESTION])
    calls = [*message.tool_calls, *sum(others, first).tool_calls]
    response = chat.invoke([QUESTION, message, ToolMessage("Sunny.", tool_call_id=calls[0]["id"])])
    reported = [{"name": call["name"], "arguments": call["args"]} for call in calls]
    print(json.dumps({"calls": reported, "response": response.content}))


if __name__ == "__main__":
    main(*sys.argv[1:])
