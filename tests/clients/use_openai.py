"""openai-python: list, chat, stream, completions, responses, embeddings. Arguments: base URL, key, model, embedder."""

import json
import sys

import openai


def main(base_url: str, key: str, model: str, embedder: str) -> None:
    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    messages = [{"role": "user", "content": "Say hello in five words."}]
    reported: list[dict[str, int]] = []

    def note(made: int, out: int) -> None:
        reported.append({"input": made, "output": out})

    names = [item.id for item in client.models.list()]
    assert {model, embedder} <= set(names), names
    assert client.models.retrieve(model).id == model
    chat = client.chat.completions.create(model=model, messages=messages, max_tokens=8)
    assert (chat.model, chat.object) == (model, "chat.completion")
    note(chat.usage.prompt_tokens, chat.usage.completion_tokens)
    # Requested usage is in the stream. Usage that is not requested is absent, but counted.
    chunks = list(
        client.chat.completions.create(
            model=model, messages=messages, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
    )
    assert all(chunk.model == model for chunk in chunks)
    note(chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens)
    chunks = list(client.chat.completions.create(model=model, messages=messages, max_tokens=8, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    text = client.completions.create(model=model, prompt="The capital of France is", max_tokens=8)
    note(text.usage.prompt_tokens, text.usage.completion_tokens)
    response = client.responses.create(model=model, input="Say hi", max_output_tokens=8)
    note(response.usage.input_tokens, response.usage.output_tokens)
    events = list(client.responses.create(model=model, input="Say hi", max_output_tokens=8, stream=True))
    note(events[-1].response.usage.input_tokens, events[-1].response.usage.output_tokens)
    vectors = client.embeddings.create(model=embedder, input=["a", "b"])
    assert len(vectors.data) == 2
    note(vectors.usage.prompt_tokens, 0)
    errors = [_error(client, "no-such-model"), _error(openai.OpenAI(base_url=base_url, api_key="sk_wrong"), model)]
    print(json.dumps({"reported": reported, "errors": errors}))


def _error(client: openai.OpenAI, model: str) -> str:
    try:
        client.chat.completions.create(model=model, messages=[])
    except openai.APIError as error:
        return type(error).__name__
    return "none"


if __name__ == "__main__":
    main(*sys.argv[1:])
