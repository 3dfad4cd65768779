"""Request bodies in the shapes that clients send, of any size. The same arguments always give the same bytes."""

import json
import random
from collections.abc import Callable
from typing import Any

from benchmarks.bench.tools import MODEL, chat_body, encode

MOST_FILLING = 4000  # characters of one message that fills up a body

FILLER = "the a of to and in is that for it as with on are this be by from at or which if when not one can each has"
NOUNS = (
    "value cache client server request response queue worker index table column record update system result number "
    "memory thread process network timeout limit error message session version release schema deploy cluster "
    "customer invoice shipment contract budget quarter region report average estimate"
)
NAMES = NOUNS.split()
WORDS = FILLER.split() + NAMES
SYSTEM = (
    "You are a careful assistant for a team of engineers. Answer in Markdown.\n\n# Rules\n\n- Prefer \"simple\" over "
    "\"clever\".\n- Quote file names, e.g. `config.toml`.\n- If a tool fails, say so; don’t guess.\n\n"
)  # fmt: skip
CODE = '''def {0}({1}: str, *, {2}: int = {n}) -> dict[str, object]:
    """Return the {1} of a "{2}"."""
    found = {{"name": {1}, "size": {2}, "path": f"/srv/{{{1}}}.json"}}
    if not found["name"]:
        raise ValueError("the {1} has no \\"name\\"\\n")
    return found
'''


def conversation(size: int, seed: int = 1) -> bytes:
    """Return a chat request of exactly `size` bytes, at least 40,000: an agent's conversation, in the order of OpenAI's
    client.

    It has a system prompt, a list of tools, and turns of different lengths: prose, lists, code, tool calls, results.
    """
    author = _Author(seed)
    messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM + author.prose(1500)}]
    body = {"messages": messages, "model": MODEL, "max_tokens": 256, "stream": False, "temperature": 0.7,
            "tools": [author.tool() for _ in range(12)]}  # fmt: skip
    size_now = len(_encode(body))
    while True:
        turn = author.turn(len(messages))
        size_now += sum(len(_encode(message)) + 1 for message in turn)
        if size_now + MOST_FILLING > size:
            return _fill(body, messages, size)
        messages += turn


def _fill(body: dict[str, Any], messages: list[dict[str, Any]], size: int) -> bytes:
    """Append messages that need no escapes, up to exactly `size` bytes."""
    frame = {"role": "user", "content": ""}
    while missing := size - len(_encode(body)):
        most = missing - len(_encode(frame)) - 1
        length = most if most <= MOST_FILLING else min(MOST_FILLING, most - 100)
        messages.append({**frame, "content": ("Thank you. Please go on with the next step. " * 100)[:length]})
    return _encode(body)


class _Author:
    """Writes texts and messages, by a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._calls = 0

    def words(self, number: int) -> str:
        return " ".join(self._random.choices(WORDS, k=number))

    def sentence(self) -> str:
        text = self.words(self._random.randint(5, 24)).capitalize()
        if self._random.random() < 0.2:
            text += f' ("{self.words(2)}")'
        return text + self._random.choice("...?:")

    def prose(self, length: int) -> str:
        """Paragraphs and lists, of about `length` characters."""
        text = ""
        while len(text) < length:
            if self._random.random() < 0.25:
                text += "".join(f"- **{self.words(2)}**: {self.sentence()}\n" for _ in range(4)) + "\n"
            else:
                text += " ".join(self.sentence() for _ in range(self._random.randint(2, 6))) + "\n\n"
        return text

    def code(self, functions: int) -> str:
        return "\n\n".join(
            CODE.format(*self._random.sample(NAMES, 3), n=self._random.randint(1, 900)) for _ in range(functions)
        )

    def tool(self) -> dict[str, Any]:
        names = self._random.sample(NAMES, 4)
        properties = {name: {"type": "string", "description": self.sentence()} for name in names}
        parameters = {"type": "object", "properties": properties, "required": names[:2], "additionalProperties": False}
        function = {"name": f"get_{names[0]}_{names[1]}", "description": self.prose(200), "parameters": parameters}
        return {"type": "function", "function": function}

    def turn(self, number: int) -> list[dict[str, Any]]:
        """A question and its answer; in two of three turns with a tool call and its result between them."""
        question = self.prose(self._random.choice((40, 150, 400, 1500)))
        if number % 3 == 0:
            question += f"```python\n{self.code(2)}```\n"
        answer = self.prose(self._random.choice((300, 1200, 3000)))
        if self._random.random() < 0.5:
            answer += f"```python\n{self.code(self._random.randint(1, 5))}```\n" + self.prose(200)
        called = self.called() if self._random.random() < 0.67 else []
        return [{"role": "user", "content": question}, *called, {"role": "assistant", "content": answer}]

    def called(self) -> list[dict[str, Any]]:
        self._calls += 1
        call = f"call_{self._calls:024d}"
        arguments = json.dumps({"path": f"/srv/{self.words(1)}.json", "query": self.words(5), "limit": 20})
        function = {"name": f"get_{self._random.choice(WORDS)}", "arguments": arguments}
        if self._random.random() < 0.5:
            rows = [{"id": row, "name": self.words(2), "note": self.words(8)} for row in range(20)]
            result = json.dumps(rows)
        else:
            result = self.prose(self._random.choice((500, 6000)))
        return [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": call, "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": call, "content": result},
        ]


def document(size: int) -> bytes:
    """A question about one long text without escapes."""
    text = (_Author(1).words(2000) + " ") * (size // 10_000 + 1)
    return _chat([{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": text[: size - 200]}])


def image(size: int) -> bytes:
    """A question about an image in base64."""
    url = "data:image/png;base64," + "iVBORw0KGgo/" * ((size - 300) // 12)
    parts = [{"type": "text", "text": "What is in this image?"}, {"type": "image_url", "image_url": {"url": url}}]
    return _chat([{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": parts}])


def tiny_messages(size: int) -> bytes:
    """Messages of one word."""
    return _chat([{"role": "user" if number % 2 else "assistant", "content": "ok"} for number in range(size // 33)])


def inputs(size: int) -> bytes:
    """Texts of 50 to 2,000 characters for embeddings."""
    author, written = _Author(1), 0
    texts: list[str] = []
    while written < size - 1200:
        texts.append(author.words(10 * (1 + len(texts) * 7 % 33)))
        written += len(texts[-1]) + 3
    return encode({"input": texts, "model": MODEL, "encoding_format": "base64"})


def code(size: int) -> bytes:
    """A question about a long file with many quotation marks."""
    text = _Author(1).code(20)
    return _chat([{"role": "user", "content": (text * (size // len(text) + 1))[: size * 9 // 10]}])


def long_prompt_then_tiny_messages(size: int) -> bytes:
    """A system prompt of 10 KB, which fills the bytes that are looked at, before messages of one word."""
    messages = [{"role": "user" if number % 2 else "assistant", "content": "ok"} for number in range(size // 33)]
    return _chat([{"role": "system", "content": "x" * 10_000}, *messages])


SHAPES: dict[str, Callable[[int], bytes]] = {
    "conversation": conversation,
    "one sentence again and again": chat_body,
    "document": document,
    "image": image,
    "tiny messages": tiny_messages,
    "inputs": inputs,
    "code": code,
    "long prompt, then tiny messages": long_prompt_then_tiny_messages,
}


def _chat(messages: list[dict[str, Any]]) -> bytes:
    return encode({"messages": messages, "model": MODEL, "max_tokens": 256})


def _encode(body: Any) -> bytes:
    """As OpenAI's client does: without blanks, other scripts as they are."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
