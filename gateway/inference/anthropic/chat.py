"""Chat completions: passed through, or translated to Anthropic's Messages for endpoints that have only these."""

from collections.abc import Coroutine
from typing import Any

from gateway.base.request_kinds import BY_NAME, MESSAGES
from gateway.base.types import Body
from gateway.dialects.anthropic.chat_requests import translating_chat
from gateway.dialects.anthropic.chat_responses import error_from_message, from_message
from gateway.dialects.anthropic.chat_stream import ChatRelay
from gateway.dialects.anthropic.responses import NoChatCompletion
from gateway.dialects.endpoint_errors import EndpointError
from gateway.dialects.openai_responses import read_large_response, read_response
from gateway.dialects.sse_relay import StreamRelay
from gateway.dialects.usage import Usage
from gateway.inference.api import OpenAiApi
from gateway.inference.attempt import Attempt
from gateway.inference.messages import check_translated_size
from gateway.inference.request import InferenceRequest
from gateway.inference.sending import send
from gateway.loop.time_slices import Slices, one_slice
from gateway.upstream.connection import Connection
from gateway.upstream.errors import BROKEN, UpstreamError

_MESSAGES_PATH = BY_NAME[MESSAGES].target
_VERSION = b"anthropic-version"


class ChatApi(OpenAiApi):
    """POST /v1/chat/completions."""

    def send(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Coroutine[Any, Any, Connection]:
        endpoint = attempt.endpoint
        # endpoint.gets_messages, without its call
        if endpoint.memory.chat_as_messages or (endpoint.provider is not None and endpoint.provider.chat_as_messages):
            return self._send_as_messages(request, attempt, body)
        return OpenAiApi.send(self, request, attempt, body)  # super() costs each request two calls more

    async def _send_as_messages(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Connection:
        """Send the request to an endpoint that has Anthropic's Messages instead of chat completions."""
        given = request.exchange.head.fields.get(_VERSION)
        version = None if given is None else given.decode("latin-1")
        model = attempt.route.model
        slices = translating_chat(body, model.id, version, max_output=model.max_output_tokens)
        messages, attempt.translation = await request.services.time_slices.start_now(slices)
        return await send(request, attempt, (messages,), _MESSAGES_PATH)

    def new_relay(self, request: InferenceRequest, attempt: Attempt) -> StreamRelay:
        parsed, translation = request.parsed, attempt.translation
        if translation is None:
            return StreamRelay(self.dialect, parsed.model, hide_usage=attempt.usage_added)
        return ChatRelay(parsed.model, translation, wants_usage=parsed.wants_usage)

    def read(self, request: InferenceRequest, attempt: Attempt, body: bytes) -> tuple[bytes, Usage | None]:
        if attempt.translation is None:
            return read_response(body, request.parsed.model)
        try:
            return from_message(body, request.parsed.model, attempt.translation)
        except NoChatCompletion as error:
            raise UpstreamError(BROKEN, str(error), error.endpoint_error) from None

    def read_slices(
        self, request: InferenceRequest, attempt: Attempt, body: bytes
    ) -> Slices[tuple[bytes, Usage | None]]:
        if attempt.translation is None:
            return read_large_response(body, request.parsed.model)
        check_translated_size(request, body)
        return one_slice(lambda: self.read(request, attempt, body))

    def endpoint_error(self, status: int, body: bytes, details: EndpointError) -> bytes:
        translated = error_from_message(body) if details.is_json else None
        return super().endpoint_error(status, body, details) if translated is None else translated
