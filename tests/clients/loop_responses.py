"""openai-python: a loop of tools by streamed Responses, without stored responses. Arguments: base URL, key, model.

The items of the first response are sent back with the result of its call.
"""

import json
import sys

import openai

QUESTION = {"role": "user", "content": [{"type": "input_text", "text": "What is the weather in Paris?"}]}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "name": "get_weather", "description": "The weather in a city.", "parameters": SCHEMA}]


def main(base_url: str, key: str, model: str) -> None:
    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    items, calls, kinds = [QUESTION], [], []
    for _ in range(2):
        with client.responses.stream(model=model, input=items, tools=TOOLS, store=False) as stream:
            numbers = []
            for event in stream:
                numbers.append(event.sequence_number)
                kinds.append(event.type)
            response = stream.get_final_response()
        assert numbers == list(range(len(numbers))), numbers
        assert response.status == "completed"
        items += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in response.output]
        for call in [item for item in response.output if item.type == "function_call"]:
            calls.append({"name": call.name, "arguments": json.loads(call.arguments)})
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."})
    error = None
    try:
        client.responses.create(model=model, input="Go on.", previous_response_id=response.id)
    except openai.BadRequestError as refused:
        error = refused.code
    usage = response.usage.model_dump()
    print(json.dumps({"calls": calls, "response": response.output_text, "usage": usage, "error": error}))


if __name__ == "__main__":
    main(*sys.argv[1:])
