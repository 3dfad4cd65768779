"""langchain-openai: invoke, stream, embed. Arguments: base URL, key, model, embedder."""

import json
import sys

from langchain_openai import ChatOpenAI, OpenAIEmbeddings


def main(base_url: str, key: str, model: str, embedder: str) -> None:
    chat = ChatOpenAI(base_url=base_url, api_key=key, model=model, max_tokens=8, max_retries=0)
    response = chat.invoke("Say hello in five words.")
    reported = [_usage(response)]
    reported.append(_usage(_whole(chat.stream("Say hello in five words.", stream_usage=True))))
    embeddings = OpenAIEmbeddings(base_url=base_url, api_key=key, model=embedder, check_embedding_ctx_length=False)
    assert len(embeddings.embed_documents(["a", "b"])) == 2
    print(json.dumps({"reported": reported}))


def _whole(pieces):
    """Return the message of the pieces of a stream."""
    first, *others = pieces
    return sum(others, first)


def _usage(message):
    usage = message.usage_metadata
    return {"input": usage["input_tokens"], "output": usage["output_tokens"]}


if __name__ == "__main__":
    main(*sys.argv[1:])
