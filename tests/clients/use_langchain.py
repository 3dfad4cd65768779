"""langchain-openai: invoke, stream, embed. Arguments: base URL, key, model, embedder."""

import json
import sys

from langchain_openai import ChatOpenAI, OpenAIEmbeddings


def main(base_url: str, key: str, model: str, embedder: str) -> None:
    chat = ChatOpenAI(base_url=base_url, api_key=key, model=model, max_tokens=8, max_retries=0)
    answer = chat.invoke("Say hello in five words.")
    told = [{"input": answer.usage_metadata["input_tokens"], "output": answer.usage_metadata["output_tokens"]}]
    pieces = list(chat.stream("Say hello in five words.", stream_usage=True))
    usage = next(piece.usage_metadata for piece in reversed(pieces) if piece.usage_metadata)
    told.append({"input": usage["input_tokens"], "output": usage["output_tokens"]})
    embeddings = OpenAIEmbeddings(base_url=base_url, api_key=key, model=embedder, check_embedding_ctx_length=False)
    assert len(embeddings.embed_documents(["a", "b"])) == 2
    print(json.dumps({"told": told}))


if __name__ == "__main__":
    main(*sys.argv[1:])
