"""Translation of the parts of chat messages to content blocks of Anthropic's Messages."""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import TypedDict

import msgspec

from gateway.dialects.chat.bodies import refusal
from gateway.dialects.chat.shapes import FilePart, ReasoningDetail

MEDIA_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
PDF = "application/pdf"
_DATA_URL = re.compile(r"data:([^;,]{0,127})((?:;[^;,]{0,127}){0,4}?)(;base64)?,", re.IGNORECASE)


class CacheMark(TypedDict, total=False):
    type: str
    ttl: str


class Block(TypedDict, total=False):
    """A content block of a turn."""

    type: str
    text: str
    source: Mapping[str, str]
    title: str
    thinking: str
    signature: str
    data: str
    id: str
    name: str
    input: msgspec.Raw | Mapping[str, str]
    tool_use_id: str
    content: "str | list[Block]"
    cache_control: CacheMark


def text_blocks(text: str) -> list[Block]:
    """Return a text as a block; Messages accept none without a visible character."""
    return [{"type": "text", "text": text}] if text and not text.isspace() else []


def thinking_blocks(details: Iterable[ReasoningDetail]) -> list[Block]:
    """Return the thinking that has a signature. Parts of one block have the same index, as streams send them."""
    blocks: list[Block] = []
    last: int | None = None
    for detail in details:
        if detail.type == "reasoning.encrypted" and detail.data:
            blocks.append({"type": "redacted_thinking", "data": detail.data})
            last = None
        elif detail.type == "reasoning.text":
            if last is None or detail.index != last:
                blocks.append({"type": "thinking", "thinking": "", "signature": ""})
            block = blocks[-1]
            block["thinking"] += detail.text or ""
            block["signature"] += detail.signature or ""
            last = detail.index
    return [block for block in blocks if block["type"] == "redacted_thinking" or block["signature"]]


def image_block(place: str, url: str) -> Block:
    if url[:8].lower().startswith(("http://", "https://")):
        return {"type": "image", "source": {"type": "url", "url": url}}
    media_type, data = _data_of(place, url)
    media_type = "image/jpeg" if media_type == "image/jpg" else media_type
    if media_type not in MEDIA_TYPES:
        raise refusal(f"`{place}` must have one of the types {', '.join(MEDIA_TYPES)}.", "messages")
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


def document_block(place: str, part: FilePart) -> Block:
    file = part.file
    if file.file_id is not None:
        raise refusal(f"`{place}.file_id`: this endpoint has no stored files; send `file_data`.", "messages")
    if not file.file_data:
        raise refusal(f"`{place}.file_data` is missing.", "messages")
    place, filename = f"{place}.file_data", file.filename or ""
    if file.file_data.startswith("data:"):
        media_type, data = _data_of(place, file.file_data)
    else:
        media_type, data = PDF if filename.lower().endswith(".pdf") else "text/plain", file.file_data
    if media_type == PDF:
        source = {"type": "base64", "media_type": PDF, "data": data}
    elif media_type.startswith("text/") or media_type == "application/json":
        source = {"type": "text", "media_type": "text/plain", "data": _decoded(place, data)}
    else:
        raise refusal(f"`{place}` must be a PDF document or text.", "messages")
    document: Block = {"type": "document", "source": source}
    if filename:
        document["title"] = filename
    return document


def _data_of(place: str, url: str) -> tuple[str, str]:
    """Return media type and base64 of a data URL. Raises Refusal (400)."""
    match = _DATA_URL.match(url)
    if match is None or match[3] is None:
        raise refusal(f"`{place}` must be an http(s) URL or a data URL in base64.", "messages")
    return match[1].strip().lower(), url[match.end() :]


def _decoded(place: str, data: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise refusal(f"`{place}` must be text in UTF-8, in base64.", "messages") from None
