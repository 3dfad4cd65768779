"""anthropic-python with its own retries, at a key with limits: three messages at once, then one that is too large.

Arguments: base URL (without /v1), key, model.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import anthropic
from failing import raised


def main(base_url: str, key: str, model: str) -> None:
    client = anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=8)

    def chat(text):
        messages = [{"role": "user", "content": text}]
        return client.messages.create(model=model, max_tokens=8, messages=messages).content[0].text

    with ThreadPoolExecutor(3) as pool:
        texts = list(pool.map(chat, ["Say hello."] * 3))
    print(json.dumps({"texts": texts, "too_large": raised(lambda: chat("x" * 40_000))}))


if __name__ == "__main__":
    main(*sys.argv[1:])
