"""What is hashed of a request: the beginning of its prompt at certain lengths, and the opening of its conversation."""

from bisect import bisect_left
from collections.abc import Mapping
from zlib import crc32

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

# Clients tell with these headers that requests belong together. The first one that is there counts.
SESSION_HEADERS = (
    b"x-session-affinity",
    b"x-session-id",
    b"x-claude-code-session-id",
    b"session_id",
    b"session-id",
    b"x-openwebui-chat-id",
)

_USER, _ROLE = b'"user"', b'"role"'
_BETWEEN = b" \t\r\n[]{},"  # what may stand between two messages
_TAIL_BYTES = 64


def session_in(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return the id of a request's session by its headers, whose names are in lower case; None without one."""
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


def read_beginning(fields: PromptFields, *, marked: bool = True) -> tuple[list[int], int, bytes]:
    """Compute the checksums of a prompt's beginning.

    Return the marks, 32 bits each and the shortest first, or none without `marked`; the bytes of tools and system
    prompt; and the opening of the conversation, as a checksum, a length and a few bytes.

    Templates put tools and system prompt before the messages, wherever the body has them, so these are read first, and
    if they have FIRST_BYTES, the first mark covers them alone. At most MAX_BYTES are read.

    The checksums are CRCs, which anyone could compute: they must not leave the process unless they are hashed with a
    key (gateway.routing.affinity.keys).
    """
    tools, system, instructions = fields.tools, fields.system, fields.instructions
    marks: list[int] = []
    seed = head = 0
    room = MAX_BYTES
    if tools or system or instructions:
        for field in (tools, system, instructions):
            data = memoryview(field)[:room]
            seed = crc32(data, seed)
            room -= len(data)
            head += len(field)
        if marked and head >= FIRST_BYTES:
            marks.append(seed)
    before = len(marks)
    field = fields.messages or fields.input or fields.prompt
    text = bytes(field) if len(field) <= room else bytes(memoryview(field)[:room])
    add = marks.append
    value, at = seed, 0
    # The last byte closes the list: the next turn has a comma in its place.
    for length in LENGTHS[: bisect_left(LENGTHS, len(text))] if marked else ():
        value = crc32(text[at:length], value)
        add(value)
        at = length
    end = opening_end(text)
    if end < FIRST_BYTES:
        opened = crc32(text[:end], seed)
    else:
        last = min(bisect_left(LENGTHS, end + 1), len(marks) - before)  # marks within the opening
        opened = crc32(text[LENGTHS[last - 1] : end], marks[before + last - 1]) if last else crc32(text[:end], seed)
    # The checksum alone would be equal by chance among 65,000 conversations.
    tail = text[end - _TAIL_BYTES if end > _TAIL_BYTES else 0 : end]
    return marks, head, (end << 32 | opened).to_bytes(8, "little") + tail


def opening_end(text: bytes) -> int:
    """Return the end of the first message of the user, which all turns of a conversation have in common.

    `text` is a list of messages, or as much of it as is read. A prompt that is no list has no turns: its opening is its
    first 512 bytes. So is that of messages which are not written as usual.
    """
    user = text.find(_USER)
    if user < 0 or not text.startswith(b"["):
        return min(len(text), FIRST_BYTES)
    end = user + len(_USER)
    if text.startswith(b"}", end):  # the role stands last in its message
        return end
    following = text.find(_ROLE, end)
    if following < 0:
        following = len(text)
    while text[following - 1] in _BETWEEN:
        following -= 1
    return following
