"""Anthropic's Messages API: passed through to endpoints that have it, else translated to chat completions and back.

No self-hosted server declares whether it has the API. Each receives one request in Anthropic's dialect; if it has no
such path, all gateways remember that for a while (gateway.routing.set_aside).
"""

import msgspec

from gateway.base.limits import TRANSLATED_RESPONSE
from gateway.base.request_kinds import BY_NAME, CHAT, TOKENIZE, Kind
from gateway.base.types import Body
from gateway.dialects.anthropic import messages_api
from gateway.dialects.anthropic.bodies import SMALL_BYTES
from gateway.dialects.anthropic.requests import reading_prompt, translating
from gateway.dialects.anthropic.responses import NoChatCompletion, from_chat
from gateway.dialects.anthropic.stream import MessagesRelay
from gateway.dialects.anthropic.translation import TRANSLATED
from gateway.dialects.endpoint_errors import EndpointError
from gateway.dialects.sse_relay import StreamRelay
from gateway.dialects.usage import Usage
from gateway.inference.api import OpenAiApi
from gateway.inference.attempt import Attempt
from gateway.inference.failures.reading import cause_of
from gateway.inference.request import InferenceRequest
from gateway.inference.sending import adapted_body, send, send_with_usage
from gateway.loop.time_slices import Slices, one_slice
from gateway.providers.errors import NOT_FOUND_STATUSES, ErrorCause
from gateway.routing.endpoint import Endpoint
from gateway.upstream.connection import Connection
from gateway.upstream.errors import BROKEN, UpstreamError

MAX_TRANSLATED_BYTES = 4 << 20  # of a whole response
MAX_TOKENS_BYTES = 4 << 20  # of a list of tokens
_CHAT_PATH = BY_NAME[CHAT].target
_TOKENIZE_PATH = BY_NAME[TOKENIZE].target


class MessagesApi(OpenAiApi):
    """POST /v1/messages."""

    relays_huge = False  # a response may need translation

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.dialect = messages_api.DIALECT

    async def send(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Connection:
        endpoint, aside = attempt.endpoint, request.services.roster.aside
        if not aside.lacks(endpoint, self.kind.name):
            adapted = adapted_body(request, attempt.route, body, include_usage=False)
            connection = await send(request, attempt, adapted)
            if connection.status not in NOT_FOUND_STATUSES or not may_have_chat(endpoint):
                return connection
            attempt.error_body = await connection.read_all()
            if cause_of(request, attempt, connection, attempt.error_body) is not ErrorCause.PATH_UNKNOWN:
                return connection
            attempt.error_body = None
            aside.learn_lacking(endpoint, self.kind.name)
        attempt.translation = TRANSLATED
        return await self.send_translated(request, attempt, body)

    async def send_translated(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Connection:
        """Send the request as a chat completion."""
        chat = await request.services.time_slices.start_now(translating(body, attempt.route.model.id))
        if attempt.endpoint.memory.usage_refused:
            chat = without_options(chat)
        elif request.parsed.stream:
            return await send_with_usage(request, attempt, (chat,), lambda: (without_options(chat),), _CHAT_PATH)
        return await send(request, attempt, (chat,), _CHAT_PATH)

    def new_relay(self, request: InferenceRequest, attempt: Attempt) -> StreamRelay:
        if attempt.translation is not None:
            return MessagesRelay(request.parsed.model)
        return StreamRelay(self.dialect, request.parsed.model, hide_usage=False)

    def read(self, request: InferenceRequest, attempt: Attempt, body: bytes) -> tuple[bytes, Usage | None]:
        if attempt.translation is None:
            return messages_api.read_message(body, request.parsed.model)
        try:
            return from_chat(body, request.parsed.model)
        except NoChatCompletion as error:
            raise UpstreamError(BROKEN, str(error), error.endpoint_error) from None

    def read_slices(
        self, request: InferenceRequest, attempt: Attempt, body: bytes
    ) -> Slices[tuple[bytes, Usage | None]]:
        if attempt.translation is None:
            return messages_api.reading_message(body, request.parsed.model)
        check_translated_size(request, body)
        return one_slice(lambda: self.read(request, attempt, body))

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

    def read(self, request: InferenceRequest, attempt: Attempt, body: bytes) -> tuple[bytes, Usage | None]:
        if attempt.translation is None:
            return body, None
        count = _count(body)
        if count is None:
            raise UpstreamError(BROKEN, "it reports no token counts")
        return messages_api.counted(count), None

    def read_slices(
        self, request: InferenceRequest, attempt: Attempt, body: bytes
    ) -> Slices[tuple[bytes, Usage | None]]:
        return one_slice(lambda: self.read(request, attempt, body))


def may_have_chat(endpoint: Endpoint) -> bool:
    """Return False for a provider that documents Messages alone: its 404 concerns the model."""
    return endpoint.provider is None or CHAT in endpoint.provider.paths


def check_translated_size(request: InferenceRequest, body: bytes) -> None:
    """Refuse a whole response that would take too long to translate. Raises UpstreamError."""
    if len(body) > MAX_TRANSLATED_BYTES:
        request.services.limit_hits.hit(TRANSLATED_RESPONSE)
        raise UpstreamError(BROKEN, f"its response has more than {MAX_TRANSLATED_BYTES >> 20} MiB to be translated")


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


def without_options(chat: bytes) -> bytes:
    """Return a chat completion request without the option that asks for usage."""
    fields: dict[str, msgspec.Raw] = msgspec.json.decode(chat, type=dict[str, msgspec.Raw])
    fields.pop("stream_options", None)
    return msgspec.json.encode(fields)
