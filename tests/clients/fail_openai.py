"""Exceptions of openai-python, and its result of a broken stream of Responses. Arguments: base URL, key."""

import json
import sys

import openai
from failing import failures

MESSAGES = [{"role": "user", "content": "Say hello."}]


def main(base_url: str, key: str) -> None:
    def send(model, stream, other_key):
        client = openai.OpenAI(base_url=base_url, api_key=other_key or key, max_retries=0)
        response = client.chat.completions.create(model=model, messages=MESSAGES, stream=stream)
        return list(response) if stream else response

    client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
    events = list(client.responses.create(model="breaks", input="Say hello.", stream=True))
    last = events[-1]
    print(json.dumps({"raised": failures(send), "last": {"type": last.type, "message": last.response.error.message}}))


if __name__ == "__main__":
    main(*sys.argv[1:])
