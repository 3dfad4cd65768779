"""Exceptions of langchain-openai. Arguments: base URL, key."""

import json
import sys

from failing import failures
from langchain_openai import ChatOpenAI


def main(base_url: str, key: str) -> None:
    def send(model, stream, other_key):
        chat = ChatOpenAI(base_url=base_url, api_key=other_key or key, model=model, max_retries=0)
        return list(chat.stream("Say hello.")) if stream else chat.invoke("Say hello.")

    print(json.dumps({"raised": failures(send)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
