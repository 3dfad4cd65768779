"""ollama-python: list, show, chat and generate (complete, streamed, with a tool), embeddings, errors.

Arguments: host (with a path, if the API is below one), key, model, embedding model; the key `-`: it is in the host.
"""

import json
import sys

import ollama

MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]
OPTIONS = {"num_predict": 4, "temperature": 0, "num_ctx": 1024}


def get_weather(city: str) -> str:
    """Return the weather.

    Args:
        city: the name of the city
    """
    return f"11 degrees in {city}"


def main(host: str, key: str, model: str, embedder: str) -> None:
    headers = {} if key == "-" else {"Authorization": f"Bearer {key}"}
    client = ollama.Client(host=host, headers=headers)
    reported = []

    def note(last) -> None:
        assert last.done
        assert last.total_duration >= last.eval_duration > 0
        reported.append({"input": last.prompt_eval_count, "output": last.eval_count})

    assert f"{model}:latest" in [listed.model for listed in client.list().models]
    shown = client.show(model)
    assert "completion" in shown.capabilities
    assert shown.modelinfo["general.architecture"]
    client.ps()
    response = client.chat(model=model, messages=MESSAGES, options=OPTIONS, keep_alive="1h")
    assert (response.model, response.message.role, response.done_reason) == (model, "assistant", "length")
    note(response)
    parts = list(client.chat(model=f"{model}:latest", messages=MESSAGES, options=OPTIONS, stream=True))
    assert "".join(part.message.content for part in parts) == response.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    note(parts[-1])
    response = client.generate(model=model, prompt="Hi", system="Be short.", options=OPTIONS)
    assert response.response
    note(response)
    parts = list(client.generate(model=model, prompt="Hi", stream=True))
    assert "".join(part.response for part in parts)
    note(parts[-1])
    for stream in (False, True):
        given = client.chat(model=model, messages=MESSAGES, tools=[get_weather], stream=stream)
        parts = list(given) if stream else [given]
        (call,) = [call for part in parts for call in part.message.tool_calls or ()]
        assert call.function.name == "get_weather"
        note(parts[-1])
    results = [*MESSAGES, {"role": "assistant", "tool_calls": [{"function": call.function.model_dump()}]}]
    results.append({"role": "tool", "tool_name": "get_weather", "content": get_weather("Tokyo")})
    note(client.chat(model=model, messages=results, options=OPTIONS))
    embedded = client.embed(model=embedder, input=["one", "two"])
    assert len(embedded.embeddings) == 2
    reported.append({"input": embedded.prompt_eval_count, "output": 0})
    errors = []
    for call in (
        lambda: client.chat(model="no-such-model", messages=MESSAGES),
        lambda: list(client.chat(model="no-such-model", messages=MESSAGES, stream=True)),
        lambda: client.pull("llama3.2"),
        lambda: client.delete(model),
    ):
        try:
            call()
        except ollama.ResponseError as error:
            errors.append([error.status_code, error.error])
    print(json.dumps({"reported": reported, "errors": errors}))


if __name__ == "__main__":
    main(*sys.argv[1:])
