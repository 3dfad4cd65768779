"""What a request needs of a model beside the capability of its path: that it calls tools, or reads images. No I/O."""

import re

import msgspec

from gateway.base.request_kinds import CAN_CHAT, TOOLS, VISION, Kind
from gateway.base.types import Body
from gateway.dialects.prompt_fields import PromptFields, decode_prompt

Needs = frozenset[str]  # of TOOLS and VISION

NO_NEEDS: Needs = frozenset()
WHOLE_BYTES = 1 << 20  # of a larger body, only so much at its beginning and its end is searched
# A part of a message, by the names of all dialects; Ollama's messages have a list of images. Text has other quotes.
_IMAGE = re.compile(rb'"type"\s*:\s*"(?:image_url|input_image|image)"|"images"\s*:\s*\[\s*"')
_SOME_TOOL = re.compile(rb"\s*\[\s*\{")
_TOOLS = re.compile(rb'"tools"\s*:\s*\[\s*\{')


def needs_of(kind: Kind, fields: PromptFields) -> Needs:
    """Return what a request with these fields needs."""
    if kind.capability != CAN_CHAT:
        return NO_NEEDS
    has_tools = _SOME_TOOL.match(fields.tools) is not None
    has_images = any(_IMAGE.search(prompt) for prompt in (fields.messages, fields.input))
    return _needs(has_tools=has_tools, has_images=has_images)


def needs_in(kind: Kind, body: Body) -> Needs:
    """Return what a request with this body needs. What is not found in a large body is not needed."""
    if kind.capability != CAN_CHAT or kind.multipart:
        return NO_NEEDS
    if len(body) <= WHOLE_BYTES:
        try:
            return needs_of(kind, decode_prompt(body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return NO_NEEDS
    ends = body[:WHOLE_BYTES], body[-WHOLE_BYTES:]
    return _needs(has_tools=any(map(_TOOLS.search, ends)), has_images=any(map(_IMAGE.search, ends)))


def _needs(*, has_tools: bool, has_images: bool) -> Needs:
    if not has_tools and not has_images:
        return NO_NEEDS
    return frozenset([TOOLS] * has_tools + [VISION] * has_images)
