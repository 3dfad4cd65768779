"""Anthropic's Messages: passed through where the endpoint speaks them, else translated to chat completions and back.

Which endpoints speak them, nobody says: each is asked in Anthropic's own way once, and remembered if it has no such
path, until it is edited.
"""

from typing import TYPE_CHECKING

import msgspec

from gateway import anthropic
from gateway.anthropic_answer import NoChatCompletion, from_chat
from gateway.anthropic_request import SMALL_BYTES, reading_prompt, translating
from gateway.anthropic_stream import MessagesRelay
from gateway.bounds import TRANSLATED_RESPONSE
from gateway.endpoint_errors import EndpointError
from gateway.exchange import Exchange
from gateway.inference import NOT_THERE, Inference
from gateway.kinds import BY_NAME, CHAT, TOKENIZE, Kind
from gateway.openai import Dialect, Usage
from gateway.outbox import Body
from gateway.relay import Relay, StreamRelay
from gateway.roster import Route
from gateway.turns import Slices, only
from gateway.upstream import BROKEN, Connection, UpstreamError

if TYPE_CHECKING:
    from gateway.handler import Gateway

MAX_TRANSLATED_BYTES = 4 << 20  # of a whole answer
MAX_TOKENS_BYTES = 4 << 20  # of a list of tokens
_CHAT_PATH = BY_NAME[CHAT].target
_TOKENIZE_PATH = BY_NAME[TOKENIZE].target


class MessagesInference(Inference):
    """POST /v1/messages."""

    _passes_huge = False  # it may have to be translated

    def __init__(self, gateway: "Gateway", exchange: Exchange, kind: Kind) -> None:
        super().__init__(gateway, exchange, kind)
        self._native = True  # the present attempt asks the endpoint in Anthropic's way

    @property
    def dialect(self) -> Dialect:
        return anthropic.DIALECT

    async def _ask(self, route: Route, body: Body) -> Connection:
        endpoint = route.endpoint
        path = self.kind.path
        self._native = path not in endpoint.lacks
        if self._native:
            connection = await self._send(endpoint, self._adapted(route, body, include_usage=False))
            if connection.status not in NOT_THERE:
                return connection
            await connection.read_all()
            self._native = False
        connection = await self._ask_translated(route, body)
        if connection.status not in NOT_THERE:  # else it is not the path that it lacks
            endpoint.lacks.add(path)
        return connection

    async def _ask_translated(self, route: Route, body: Body) -> Connection:
        endpoint = route.endpoint
        chat = await self.gateway.turns.run_on(translating(body, route.model.id))
        if endpoint.usage_refused:
            chat = _without_options(chat)
        elif self.request.stream:
            return await self._ask_for_usage(endpoint, (chat,), lambda: (_without_options(chat),), _CHAT_PATH)
        return await self._send(endpoint, (chat,), _CHAT_PATH)

    def _new_relay(self) -> Relay:
        if self._native:
            return StreamRelay(self.dialect, self.request.model, hide_usage=False)
        return MessagesRelay(self.request.model)

    def _read(self, body: bytes, asked: str) -> tuple[bytes, Usage | None]:
        if self._native:
            return anthropic.read_message(body, asked)
        try:
            return from_chat(body, asked)
        except NoChatCompletion as error:
            raise UpstreamError(BROKEN, str(error), error.said) from None

    def _reading(self, body: bytes, asked: str) -> Slices[tuple[bytes, Usage | None]]:
        if self._native:
            return anthropic.reading_message(body, asked)
        if len(body) > MAX_TRANSLATED_BYTES:
            self.gateway.bounds.hit(TRANSLATED_RESPONSE)
            raise UpstreamError(BROKEN, f"its answer has more than {MAX_TRANSLATED_BYTES >> 20} MiB to be translated")
        return only(lambda: self._read(body, asked))

    def _refused(self, status: int, body: bytes, said: EndpointError) -> bytes:
        return anthropic.upstream_error_body(body, status)

    def _error_body(self, status: int, code: str, message: str, param: str | None) -> bytes:
        return anthropic.error_body(status, code, message, self.request_id.decode())


class CountTokens(MessagesInference):
    """POST /v1/messages/count_tokens; of an endpoint that cannot, by what it makes of the prompt's text."""

    async def _ask_translated(self, route: Route, body: Body) -> Connection:
        text = await self.gateway.turns.run_on(reading_prompt(body))
        if len(text) > SMALL_BYTES:
            await self.gateway.turns.next()
        model, prompt = msgspec.json.encode(route.model.id), msgspec.json.encode(text)
        # vLLM reads `prompt`, llama.cpp `content`.
        asked = (b'{"model":%b,"prompt":' % model, prompt, b',"content":', prompt, b"}")
        return await self._send(route.endpoint, asked, _TOKENIZE_PATH)

    def _reading(self, body: bytes, asked: str) -> Slices[tuple[bytes, Usage | None]]:
        return only(lambda: self._read(body, asked))

    def _read(self, body: bytes, asked: str) -> tuple[bytes, Usage | None]:
        if self._native:
            return body, None
        count = _count(body)
        if count is None:
            raise UpstreamError(BROKEN, "it tells no tokens")
        return anthropic.counted(count), None


class _Tokens(msgspec.Struct):
    """What /tokenize answers: vLLM counts, llama.cpp lists them."""

    count: int | None = None
    tokens: list[int] | None = None


_decode_tokens = msgspec.json.Decoder(_Tokens).decode


def _count(body: bytes) -> int | None:
    if len(body) > MAX_TOKENS_BYTES:
        return None
    try:
        found = _decode_tokens(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if found.count is not None:
        return found.count
    return None if found.tokens is None else len(found.tokens)


def _without_options(chat: bytes) -> bytes:
    fields: dict[str, msgspec.Raw] = msgspec.json.decode(chat, type=dict[str, msgspec.Raw])
    fields.pop("stream_options", None)
    return msgspec.json.encode(fields)
