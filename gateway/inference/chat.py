"""Chat completions: passed through, or translated to Anthropic's Messages for endpoints that have only these."""

from collections.abc import Coroutine
from typing import Any

from gateway.base.types import Body
from gateway.dialects.anthropic.chat_responses import from_message
from gateway.dialects.anthropic.chat_stream import CompletionChunks
from gateway.dialects.chat.relay import TranslatingRelay
from gateway.dialects.sse_relay import StreamRelay
from gateway.dialects.usage import Usage
from gateway.inference.api import OpenAiApi
from gateway.inference.attempt import Attempt
from gateway.inference.hop import reading_translated, send_as_messages
from gateway.inference.request import InferenceRequest
from gateway.loop.time_slices import Slices
from gateway.upstream.connection import Connection

_VERSION = b"anthropic-version"


class ChatApi(OpenAiApi):
    """POST /v1/chat/completions."""

    def send(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Coroutine[Any, Any, Connection]:
        if not attempt.endpoint.gets_messages:
            return super().send(request, attempt, body)
        version = request.exchange.head.fields.get(_VERSION)
        return send_as_messages(request, attempt, body, version=None if version is None else version.decode("latin-1"))

    def new_relay(self, request: InferenceRequest, attempt: Attempt) -> StreamRelay:
        parsed, translation = request.parsed, attempt.translation
        if translation is None:
            return super().new_relay(request, attempt)
        return TranslatingRelay(
            parsed.model, CompletionChunks(parsed.model, translation, wants_usage=parsed.wants_usage)
        )

    def reading(self, request: InferenceRequest, attempt: Attempt, body: bytes) -> Slices[tuple[bytes, Usage | None]]:
        translation, model = attempt.translation, request.parsed.model
        if translation is None:
            return super().reading(request, attempt, body)
        return reading_translated(request, body, translation, lambda whole: from_message(whole, model, translation))
