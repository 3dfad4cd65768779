"""Paths of Ollama's own API: below /ollama on RouterDash's port, and at the root of a port of its own.

Many clients of Ollama cannot send a header, so that the API key may be the first part of the path:
`/ollama/sk_…/api/chat`. It is removed before anything else reads the path, so that no log, record or error has it.
"""

import re

from gateway.http.exchange import Exchange, RequestHead, RequestLine

PREFIX = b"/ollama"
ROOT = b"/ollama/"
_API, _OPENAI = b"api", b"v1"
# After the host, or after /ollama. It begins where a run of slashes does, so that each run is read twice at most.
_KEY = re.compile(rb"((?<!/)(?:/++ollama/++|/{2,}+(?:[^/?#]*+/++)?))sk_[A-Za-z0-9_]+")


def on_own_port(target: bytes) -> bytes:
    """Return the target of a request on Ollama's port as it is on RouterDash's port."""
    if target.startswith(b"/v1/"):
        return target  # Ollama has OpenAI's paths, too
    return PREFIX + target if target.startswith(b"/") else ROOT


def is_ollama(path: bytes) -> bool:
    """Return True for a path of Ollama's API, with an API key or without one."""
    return path.startswith(ROOT) or path == PREFIX


def split_key(target: bytes) -> tuple[bytes, bytes]:
    """Return a target without the API key in it, and the key; empty if there is none.

    What follows the key may be a path of OpenAI's API, which an Ollama has, too.
    """
    path, mark, query = target.partition(b"?")
    rest = path[len(PREFIX) :].lstrip(b"/")
    first, _, after = rest.partition(b"/")
    key = b""
    if first and first not in (_API, _OPENAI):
        key, rest = first, after.lstrip(b"/")
    is_openai = rest.startswith(_OPENAI + b"/")
    return (b"/" if is_openai else ROOT) + rest + mark + query, key


def take_key(exchange: Exchange) -> None:
    """Remove the API key from the path of a request, and take it as that of its header lines.

    The lines become those of this request alone: another request of the connection may have the same ones, but no key.
    """
    line = exchange.line
    target, key = split_key(line.target)
    exchange.line = RequestLine(line.method, target, line.version)
    if not key:
        return
    peer = exchange.head.peer
    head = RequestHead([header for header in exchange.head.raw if header[0].lower() != b"referer"])
    head.fields.pop(b"authorization", None)
    head.fields[b"x-api-key"] = key
    head.peer = peer
    exchange.head = head


def without_key(referer: bytes) -> bytes:
    """Return the address of a page without an API key in its path."""
    return _KEY.sub(rb"\1key", referer)
