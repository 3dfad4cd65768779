"""Error responses of endpoints, and the summary of them that every user may see.

Their messages quote prompts, as validation errors do. So a message is content: the client of the request gets it, and
it is stored only together with bodies, for users who may see bodies. All others see a summary in RouterDash's words.
"""

import re
from typing import Any

import msgspec

from gateway.base import causes

MAX_SENTENCE = 500  # characters
UNNAMED = "the upstream reported an error"
# Of a prompt that is longer than the context of the model, anywhere in a message.
TOO_LONG = re.compile(
    r"maximum context length is|exceeds the available context size|exceeds the maximum number of tokens allowed"
    r"|input tokens exceed the configured limit|prompt is too long|`inputs` tokens \+ `max_new_tokens` must be"
    r"|is longer than the model's context length|maximum prompt length is|too large for model with \d+ maximum context",
    re.IGNORECASE,
)

_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class EndpointError(msgspec.Struct, frozen=True):
    """An error as an endpoint describes it."""

    sentence: str  # its own message; empty: it has none
    words: tuple[str, ...] = ()  # its type and its code, if they are single words
    is_json: bool = True
    status: int | None = None  # that an error within a response names instead of a word (OpenRouter)
    written: Any = None  # the decoded `error` of an event or a response, as the endpoint wrote it

    def summary(self, status: int) -> str:
        """Return a summary that everyone may see. `status` of the HTTP response; below 400 the error was within one."""
        if status >= 400:
            cause = causes.STATUS_WORDS if self.words else causes.STATUS
        else:
            cause = causes.ERROR_WITHIN_WORDS if self.words else causes.ERROR_WITHIN
        return cause.format(status=status, words=", ".join(self.words))


def described(error: Any) -> EndpointError:
    """Read the value of `error` in an event or a response: an object with a message, or a sentence."""
    if isinstance(error, dict):
        code = error.get("code")
        status = code if type(code) is int and 400 <= code < 600 else None
        return EndpointError(str(error.get("message") or UNNAMED)[:MAX_SENTENCE], _words(error), True, status, error)
    return EndpointError(str(error or UNNAMED)[:MAX_SENTENCE], written=error)


def ended_by_error(reason: object) -> EndpointError:
    """Return the error of a response that has no other sign of it than its finish reason, one of CHAT_REASONS."""
    return EndpointError(UNNAMED, ("finish_reason", str(reason)))


def read(body: bytes) -> EndpointError:
    """Read the body of an error of any format."""
    is_json = not body.startswith(b"data:")  # else an event: some servers send one if a stream cannot begin
    try:
        response = msgspec.json.decode(body if is_json else body[5:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return EndpointError(_beginning(body), is_json=False)
    if isinstance(response, list) and len(response) == 1:  # Gemini
        response = response[0]
    if not isinstance(response, dict):
        return EndpointError(_beginning(body), is_json=is_json)
    error = response.get("error")
    words = _words(error if isinstance(error, dict) else response)
    for key in ("error", "message", "detail"):
        value = response.get(key)
        if isinstance(value, dict):
            value = value.get("message")
        if isinstance(value, str):
            return EndpointError(value[:MAX_SENTENCE], words, is_json)
    return EndpointError(_beginning(body), words, is_json)


def _beginning(body: bytes) -> str:
    return body[:MAX_SENTENCE].decode("utf-8", "replace").strip()


def _words(error: dict[str, Any]) -> tuple[str, ...]:
    names = (error.get("type"), error.get("code"), error.get("status"))
    words = (value for value in names if isinstance(value, str) and value != "error" and _WORD.fullmatch(value))
    return tuple(dict.fromkeys(words))[:2]
