"""Exceptions of anthropic-python. Arguments: base URL (without /v1), key."""

import json
import sys

import anthropic
from failing import failures

MESSAGES = [{"role": "user", "content": "Say hello."}]


def main(base_url: str, key: str) -> None:
    def send(model, stream, other_key):
        client = anthropic.Anthropic(base_url=base_url, api_key=other_key or key, max_retries=0)
        response = client.messages.create(model=model, messages=MESSAGES, max_tokens=8, stream=stream)
        return list(response) if stream else response

    print(json.dumps({"raised": failures(send)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
