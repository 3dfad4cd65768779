"""What endpoints say of their errors, and what of it may be told to whom.

Their sentences quote prompts, as validation errors do. So a sentence is content: the client that asked gets it, and it
is stored only where bodies are, for those who may see bodies. Everybody else is told a summary in words of ours.
"""

import re
from typing import Any

import msgspec

MAX_SENTENCE = 500  # characters
UNNAMED = "the upstream reported an error"

_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class EndpointError(msgspec.Struct, frozen=True):
    """An error as an endpoint describes it."""

    sentence: str  # its own words; empty: it said none
    words: tuple[str, ...] = ()  # its type and its code, if they are single words
    is_json: bool = True

    def summary(self, status: int) -> str:
        """What may be told to everybody. `status` of the HTTP response; below 400 the error was within one."""
        what = f"HTTP {status}" if status >= 400 else "an error in its answer"
        return f"{what} ({', '.join(self.words)})" if self.words else what


def described(error: Any) -> EndpointError:
    """The value of an `error` in an event or an answer: an object with a message, or a sentence."""
    if isinstance(error, dict):
        return EndpointError(str(error.get("message") or UNNAMED)[:MAX_SENTENCE], _words(error))
    return EndpointError(str(error or UNNAMED)[:MAX_SENTENCE])


def read(body: bytes) -> EndpointError:
    """The body of an error, whatever its shape."""
    is_json = not body.startswith(b"data:")  # else an event, as some servers send it for a stream that cannot begin
    try:
        found = msgspec.json.decode(body if is_json else body[5:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return EndpointError(_beginning(body), is_json=False)
    if not isinstance(found, dict):
        return EndpointError(_beginning(body), is_json=is_json)
    error = found.get("error")
    words = _words(error if isinstance(error, dict) else found)
    for key in ("error", "message", "detail"):
        value = found.get(key)
        if isinstance(value, dict):
            value = value.get("message")
        if isinstance(value, str):
            return EndpointError(value[:MAX_SENTENCE], words, is_json)
    return EndpointError(_beginning(body), words, is_json)


def _beginning(body: bytes) -> str:
    return body[:MAX_SENTENCE].decode("utf-8", "replace").strip()


def _words(error: dict[str, Any]) -> tuple[str, ...]:
    found = (error.get("type"), error.get("code"))
    words = (it for it in found if isinstance(it, str) and it != "error" and _WORD.fullmatch(it))
    return tuple(dict.fromkeys(words))
