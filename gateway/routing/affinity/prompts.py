"""What is hashed of a request: the beginning of its prompt at certain lengths, and the opening of its conversation."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from struct import Struct

from xxhash import xxh3_64_digest, xxh3_64_intdigest

from gateway.dialects.prompt_fields import PromptFields

FIRST_BYTES = 512  # length of the shortest prefix with a mark; smaller bodies have no affinity
GROWTH = 1.25  # at most a fifth of a common prefix is lost
MAX_BYTES = 128 << 10  # that are hashed of a body


def _lengths() -> tuple[int, ...]:
    lengths = [FIRST_BYTES]
    while (longer := int(lengths[-1] * GROWTH)) <= MAX_BYTES:
        lengths.append(longer)
    return tuple(lengths)


LENGTHS = _lengths()  # bytes from the beginning of the messages


def _splitter(count: int) -> Callable[[bytes], tuple[bytes, ...]]:
    """Return the function that splits a text at the first `count` lengths, without what follows."""
    sizes = (length - before for before, length in zip((0, *LENGTHS), LENGTHS[:count], strict=False))
    return Struct("".join(f"{size}s" for size in sizes)).unpack_from


_SPLIT = [_splitter(count) for count in range(len(LENGTHS) + 1)]  # quicker than slices, one for each length

# Clients tell with these headers that requests belong together. The first one that is there counts.
SESSION_HEADERS = (
    b"x-session-affinity",
    b"x-session-id",
    b"x-claude-code-session-id",
    b"session_id",
    b"session-id",
    b"x-openwebui-chat-id",
)
_SESSION_NAMES = frozenset(SESSION_HEADERS)

_USER, _ROLE, _LIST = b'"user"', b'"role"', ord("[")
_BETWEEN = b" \t\r\n[]{},"  # what may stand between two messages


def session_in(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the id of a request's session by its headers, whose names are in lower case; None without one."""
    if _SESSION_NAMES.isdisjoint(headers):
        return None
    for name in SESSION_HEADERS:
        if name in headers and (value := headers[name].strip()):
            return value
    return None


def session_of(fields: PromptFields) -> bytes | None:
    """Return the id of a request's session by its field `prompt_cache_key`; None without one."""
    key = bytes(fields.prompt_cache_key)
    return key[1:-1] or None if key[:1] == b'"' else None


def size_of(head: int, number: int) -> int:
    """Return the bytes of a body that a mark covers. `head`: bytes of tools and system prompt."""
    if head < FIRST_BYTES:
        return head + LENGTHS[number]
    return head + LENGTHS[number - 1] if number else head


def count_marks(fields: PromptFields) -> tuple[int, int]:
    """Return the number of marks of a prompt of this size, and the bytes of its head, without reading it."""
    head = len(fields.tools) + len(fields.system) + len(fields.instructions)
    size = len(fields.messages) or len(fields.input) or len(fields.prompt)
    room = MAX_BYTES - min(head, MAX_BYTES)
    return bisect_left(LENGTHS, min(size, room)) + (head >= FIRST_BYTES), head


def read_opening(fields: PromptFields) -> bytes:
    """Return the checksum of a conversation's opening."""
    seed, text, _ = _read_head(fields)
    return _opening(text, seed)


def _read_head(fields: PromptFields) -> tuple[int, bytes, int]:
    """Return the checksum of tools and system prompt, the text of the messages as far as it is read, and the bytes of
    tools and system prompt.
    """
    seed, room, head = 0, MAX_BYTES, 0
    if fields.tools or fields.system or fields.instructions:
        for field in (fields.tools, fields.system, fields.instructions):
            data = memoryview(field)[:room]
            seed = xxh3_64_intdigest(data, seed)
            room -= len(data)
            head += len(field)
    messages = fields.messages or fields.input or fields.prompt
    return seed, bytes(messages) if len(messages) <= room else bytes(memoryview(messages)[:room]), head


def _opening(text: bytes, seed: int) -> bytes:
    return xxh3_64_digest(text[: opening_end(text)], seed)


def read_beginning(fields: PromptFields) -> tuple[list[int], int, bytes]:
    """Compute the checksums of a prompt's beginning.

    Return the marks, 64 bits each and the shortest first; the bytes of tools and system prompt; and the checksum of the
    conversation's opening, as `read_opening` does.

    Templates put tools and system prompt before the messages, wherever the body has them, so these are read first, and
    if they have FIRST_BYTES, the first mark covers them alone. At most MAX_BYTES are read.

    The checksums are XXH3, each with the one before as its seed. Anyone could compute them: they must not leave the
    process unless they are hashed with a key (gateway.routing.affinity.keys).
    """
    seed, text, head = _read_head(fields)
    marks, opening = marks_of(text, seed), _opening(text, seed)
    if head >= FIRST_BYTES:
        marks.insert(0, seed)
    return marks, head, opening


def marks_of(text: bytes, value: int) -> list[int]:
    """Return the checksums of a text at those of LENGTHS that it exceeds. `value`: that of what stands before it."""
    # The last byte closes the list: the next turn has a comma in its place.
    marks = []
    for piece in _SPLIT[bisect_left(LENGTHS, len(text))](text):
        value = xxh3_64_intdigest(piece, value)
        marks.append(value)
    return marks


def opening_end(text: bytes) -> int:
    """Return the end of the first message of the user, which all turns of a conversation have in common.

    `text` is a list of messages, or as much of it as is read. A prompt that is no list has no turns: its opening is its
    first 512 bytes. So is that of messages which are not written as usual.
    """
    user = text.find(_USER)
    if user < 0 or text[0] != _LIST:
        return min(len(text), FIRST_BYTES)
    end = user + len(_USER)
    last = text.find(_ROLE, end)
    if last < 0:
        last = len(text)
    if text[end : end + 1] == b"}":  # the role stands last in its message
        return end
    while last > end and text[last - 1] in _BETWEEN:  # `rstrip` would need a copy
        last -= 1
    return last
