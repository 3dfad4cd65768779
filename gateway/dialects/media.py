"""Images and audio of a response, by which some prices count.

Durations are those that servers compute from the audio: `usage.seconds`, or `duration` of a verbose transcript.
"""

from typing import Any

import msgspec
from msgspec import structs

from gateway.base.request_kinds import IMAGE_EDITS, IMAGE_VARIATIONS, IMAGES, TRANSCRIPTIONS, TRANSLATIONS
from gateway.dialects.json_text import small_value
from gateway.dialects.usage import NOT_REPORTED, Usage

DRAWING = frozenset((IMAGES, IMAGE_EDITS, IMAGE_VARIATIONS))
TRANSCRIBING = frozenset((TRANSCRIPTIONS, TRANSLATIONS))
MAX_BYTES = 64 << 20  # of a response that is read at once: 0.23 ns for each byte
MAX_SECONDS = 1_000_000_000
_NOTHING = msgspec.Raw(b"")


class _Media(msgspec.Struct):
    """Raw fields, so that a malformed one does not hide the others."""

    data: msgspec.Raw = _NOTHING  # the images
    usage: msgspec.Raw = _NOTHING
    duration: msgspec.Raw = _NOTHING  # of the audio


class _Image(msgspec.Struct):
    """An image, of which nothing is decoded."""


_decode = msgspec.json.Decoder(_Media).decode
_decode_images = msgspec.json.Decoder(list[_Image]).decode


def with_media(usage: Usage | None, kind: str, body: bytes) -> Usage | None:
    """Add the images or the audio of a whole response to a request of this kind, as far as they are known."""
    if len(body) > MAX_BYTES:
        return usage
    try:
        media = _decode(body)
        if kind in DRAWING:
            return with_images(usage, len(_decode_images(media.data)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return usage
    if kind in TRANSCRIBING:
        return with_audio(usage, small_value(bytes(media.usage)), small_value(bytes(media.duration)))
    return usage


def with_images(usage: Usage | None, images: int) -> Usage:
    """Add a number of images to token counts."""
    return structs.replace(usage or NOT_REPORTED, images=images)


def with_audio(usage: Usage | None, reported: Any, duration: Any = None) -> Usage | None:
    """Add a duration: `seconds` of the reported usage, else `duration`, in seconds. Some servers report it as text."""
    seconds = reported.get("seconds") if isinstance(reported, dict) else None
    if seconds is None:
        seconds = duration
    try:
        seconds = float(seconds) if type(seconds) in (int, float, str) else -1.0
    except (ValueError, OverflowError):
        return usage
    if not 0 <= seconds <= MAX_SECONDS:
        return usage
    return structs.replace(usage or NOT_REPORTED, audio_ms=round(seconds * 1000))
