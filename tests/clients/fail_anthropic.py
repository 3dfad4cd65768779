"""anthropic-python: what it raises. Arguments: base URL (without /v1), key."""

import json
import sys

import anthropic
from failing import failures

MESSAGES = [{"role": "user", "content": "Say hello."}]


def main(base_url: str, key: str) -> None:
    def ask(model, stream, other_key):
        client = anthropic.Anthropic(base_url=base_url, api_key=other_key or key, max_retries=0)
        answer = client.messages.create(model=model, messages=MESSAGES, max_tokens=8, stream=stream)
        return list(answer) if stream else answer

    print(json.dumps({"raised": failures(ask)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
