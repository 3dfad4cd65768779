"""Anthropic's Messages API: passed through to endpoints that have it, else translated to chat completions and back.

No self-hosted server declares whether it has the API. Each receives one request in Anthropic's dialect; if it has no
such path, all gateways remember that for a while (gateway.routing.set_aside).
"""

import msgspec

from gateway.base import causes
from gateway.base.request_kinds import BY_NAME, TOKENIZE, Kind
from gateway.base.types import Body
from gateway.dialects.anthropic import messages_api
from gateway.dialects.anthropic.requests import reading_prompt, translating
from gateway.dialects.anthropic.responses import from_chat
from gateway.dialects.anthropic.stream import MessageEvents
from gateway.dialects.chat.bodies import SMALL_BYTES
from gateway.dialects.chat.relay import TranslatingRelay
from gateway.dialects.chat.translation import TRANSLATED
from gateway.dialects.endpoint_errors import EndpointError
from gateway.dialects.sse_relay import StreamRelay
from gateway.dialects.usage import Usage
from gateway.inference.api import OpenAiApi
from gateway.inference.attempt import Attempt
from gateway.inference.hop import lacks_api, reading_translated, send_translated
from gateway.inference.request import InferenceRequest
from gateway.inference.sending import adapted_body, send
from gateway.loop.time_slices import Slices
from gateway.upstream.connection import Connection
from gateway.upstream.errors import BROKEN, UpstreamError

MAX_TOKENS_BYTES = 4 << 20  # of a list of tokens
_TOKENIZE_PATH = BY_NAME[TOKENIZE].target


class MessagesApi(OpenAiApi):
    """POST /v1/messages."""

    relays_huge = False  # a response may need translation

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.dialect = messages_api.DIALECT

    async def send(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Connection:
        if not request.services.roster.aside.lacks(attempt.endpoint, self.kind.name):
            adapted = adapted_body(request, attempt.route, body, include_usage=False)
            connection = await send(request, attempt, adapted)
            if not await lacks_api(request, attempt, connection):
                return connection
            attempt.error_body = None
        attempt.translation = TRANSLATED
        return await self.send_translated(request, attempt, body)

    async def send_translated(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Connection:
        """Send the request as a chat completion."""
        chat = await request.services.time_slices.start_now(translating(body, attempt.route.model.id))
        return await send_translated(request, attempt, chat)

    def new_relay(self, request: InferenceRequest, attempt: Attempt) -> StreamRelay:
        model = request.parsed.model
        if attempt.translation is not None:
            return TranslatingRelay(model, MessageEvents(model))
        return StreamRelay(self.dialect, model, hide_usage=False)

    def reading(self, request: InferenceRequest, attempt: Attempt, body: bytes) -> Slices[tuple[bytes, Usage | None]]:
        model = request.parsed.model
        if attempt.translation is None:
            return messages_api.reading_message(body, model)
        return reading_translated(request, body, attempt.translation, lambda chat: from_chat(chat, model))

    def endpoint_error(self, status: int, body: bytes, details: EndpointError) -> bytes:
        return messages_api.upstream_error_body(body, status)

    def error_body(
        self,
        request: InferenceRequest,
        status: int,
        code: str,
        message: str,
        param: str | None,
        error_type: str | None = None,
    ) -> bytes:
        return messages_api.anthropic_error(status, message, request.request_id.decode())


class CountTokensApi(MessagesApi):
    """POST /v1/messages/count_tokens; for endpoints without it, the tokens of the prompt's text are counted."""

    async def send_translated(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Connection:
        """Send the text of the prompt to the endpoint's tokenizer."""
        slices = request.services.time_slices
        text = await slices.start_now(reading_prompt(body))
        if len(text) > SMALL_BYTES:
            await slices.next()
        model, prompt = msgspec.json.encode(attempt.route.model.id), msgspec.json.encode(text)
        # vLLM reads `prompt`, llama.cpp `content`.
        tokenize = (b'{"model":%b,"prompt":' % model, prompt, b',"content":', prompt, b"}")
        return await send(request, attempt, tokenize, _TOKENIZE_PATH)

    def reading(self, request: InferenceRequest, attempt: Attempt, body: bytes) -> Slices[tuple[bytes, Usage | None]]:
        yield from ()
        if attempt.translation is None:
            return body, None
        count = _count(body)
        if count is None:
            raise UpstreamError(BROKEN, causes.NO_TOKEN_COUNTS)
        return messages_api.counted(count), None


class _Tokens(msgspec.Struct):
    """The response of /tokenize: vLLM counts, llama.cpp lists them."""

    count: int | None = None
    tokens: list[int] | None = None


_decode_tokens = msgspec.json.Decoder(_Tokens).decode


def _count(body: bytes) -> int | None:
    """Return the number of tokens in a response of /tokenize; None for any other body."""
    if len(body) > MAX_TOKENS_BYTES:
        return None
    try:
        response = _decode_tokens(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if response.count is not None:
        return response.count
    return None if response.tokens is None else len(response.tokens)
