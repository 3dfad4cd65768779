"""openai-python against a cloud: chats, streams, parallel tools, images, structured output, reasoning, responses.

Arguments: base URL, key, model, and what to leave out: `stream_options`, `structured`, `image`, `responses`, `effort`.
"""

import json
import sys

import openai
import pydantic

MESSAGES = [{"role": "user", "content": "Say hello to all of us."}]
PIXEL = "data:image/png;base64,iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "The weather in a city.", "parameters": SCHEMA}


class Place(pydantic.BaseModel):
    city: str
    days: int


class Calls:
    """The requests, and the usage that they reported."""

    def __init__(self, client: openai.OpenAI, model: str, without: list[str]) -> None:
        self.client = client
        self.model = model
        self.without = without
        self.usages: list[dict] = []

    def note(self, usage) -> None:
        self.usages.append(usage.model_dump(exclude_none=True))

    def run(self) -> None:
        self.chat(messages=MESSAGES)
        self.stream(messages=MESSAGES)
        self.tools()
        if "effort" not in self.without:
            self.chat(messages=MESSAGES, reasoning_effort="low")
        if "image" not in self.without:
            parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
            self.chat(messages=[{"role": "user", "content": parts}])
        if "structured" not in self.without:
            self.structured()
        if "responses" not in self.without:
            self.responses()

    def chat(self, **fields):
        completion = self.client.chat.completions.create(model=self.model, **fields)
        self.note(completion.usage)
        return completion.choices[0]

    def stream(self, **fields) -> None:
        wanted = {} if "stream_options" in self.without else {"stream_options": {"include_usage": True}}
        usages = []
        for chunk in self.client.chat.completions.create(model=self.model, stream=True, **wanted, **fields):
            usages += [chunk.usage] if chunk.usage else []
        self.note(usages[-1])

    def tools(self) -> None:
        tools = [{"type": "function", "function": FUNCTION}]
        choice = self.chat(messages=MESSAGES, tools=tools)
        calls = choice.message.tool_calls
        assert choice.finish_reason == "tool_calls", choice
        assert [json.loads(call.function.arguments).keys() for call in calls] == [{"city"}] * len(calls)
        assert len(calls) == 2, calls
        results = [{"role": "tool", "tool_call_id": call.id, "content": "Sunny."} for call in calls]
        turn = choice.message.model_dump(exclude_none=True)
        assert self.chat(messages=[*MESSAGES, turn, *results], tools=tools).message.content
        self.stream(messages=MESSAGES, tools=tools)

    def structured(self) -> None:
        completion = self.client.chat.completions.parse(model=self.model, messages=MESSAGES, response_format=Place)
        assert completion.choices[0].message.parsed.days == 7
        self.note(completion.usage)

    def responses(self) -> None:
        tools = [{"type": "function", **FUNCTION}]
        response = self.client.responses.create(model=self.model, input="Say hello.")
        assert response.output_text
        self.note(response.usage)
        for more in ({}, {"tools": tools}, {"reasoning": {"effort": "low", "summary": "auto"}}):
            with self.client.responses.stream(model=self.model, input="Say hello.", **more) as stream:
                for _ in stream:
                    pass
                response = stream.get_final_response()
            assert response.status == "completed", response
            self.note(response.usage)


def main(base_url: str, key: str, model: str, *without: str) -> None:
    calls = Calls(openai.OpenAI(base_url=base_url, api_key=key, max_retries=0), model, list(without))
    calls.run()
    print(json.dumps({"usages": calls.usages}))


if __name__ == "__main__":
    main(*sys.argv[1:])
