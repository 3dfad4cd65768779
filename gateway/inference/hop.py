"""Requests that are translated to chat completions, and these to Anthropic's Messages for endpoints with only these."""

from collections.abc import Callable

import msgspec

from gateway.base import causes
from gateway.base.bounds import TRANSLATED_RESPONSE
from gateway.base.request_kinds import BY_NAME, CHAT, MESSAGES
from gateway.base.types import Body
from gateway.dialects.anthropic.chat_requests import translating_chat
from gateway.dialects.chat.completions import NoChatCompletion
from gateway.dialects.chat.translation import Translation
from gateway.dialects.hop import read_by_chat, with_hop
from gateway.dialects.usage import Usage
from gateway.inference.attempt import Attempt
from gateway.inference.failures.error_bodies import read_error_body
from gateway.inference.failures.reading import cause_of
from gateway.inference.request import InferenceRequest
from gateway.inference.sending import as_endpoint_takes, send, send_with_usage
from gateway.loop.time_slices import Slices
from gateway.providers.errors import NOT_FOUND_STATUSES, ErrorCause
from gateway.upstream.connection import Connection
from gateway.upstream.errors import BROKEN, UpstreamError

MAX_TRANSLATED_BYTES = 4 << 20  # of a whole response
_MESSAGES_PATH = BY_NAME[MESSAGES].target

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


async def lacks_api(request: InferenceRequest, attempt: Attempt, connection: Connection) -> bool:
    """Return True if the endpoint has no path for this kind of request, but may have chat completions.

    All gateways remember it for a while.
    """
    provider = attempt.endpoint.provider
    # Of a provider that documents no chat completions, a 404 concerns the model.
    may_have_chat = provider is None or CHAT in provider.paths
    if connection.status not in NOT_FOUND_STATUSES or not may_have_chat:
        return False
    refusal = await read_error_body(request, attempt, connection)
    if cause_of(request, attempt, connection, refusal) is not ErrorCause.PATH_UNKNOWN:
        return False
    request.services.roster.aside.learn_lacking(attempt.endpoint, request.api.kind.name)
    return True


async def send_by_chat(
    request: InferenceRequest, attempt: Attempt, body: bytes, translation: Translation, kind: str = CHAT
) -> Connection:
    """Send a request that was translated to one of a kind of OpenAI's. Raises Refusal.

    A chat completion is sent as Messages if the endpoint has only these.
    """
    attempt.translation = translation
    if kind == CHAT and attempt.endpoint.gets_messages:
        return await send_as_messages(request, attempt, body, translation)
    return await send_translated(request, attempt, body, kind)


async def send_translated(request: InferenceRequest, attempt: Attempt, body: bytes, kind: str = CHAT) -> Connection:
    """Send a request that was translated to one of a kind of OpenAI's. A stream asks for its usage if possible."""
    path = BY_NAME[kind].target
    body = as_endpoint_takes(attempt, body, kind)
    if request.parsed.stream and request.api.kind.generates:
        if not attempt.endpoint.memory.usage_refused:
            return await send_with_usage(request, attempt, (body,), lambda: (_without_options(body),), path)
        body = _without_options(body)
    return await send(request, attempt, (body,), path)


async def send_as_messages(
    request: InferenceRequest,
    attempt: Attempt,
    chat: Body,
    translation: Translation | None = None,
    version: str | None = None,
) -> Connection:
    """Send a chat completion as Messages. Raises Refusal.

    `translation`: by which the chat completion was made; `version`: of the API, if the client has chosen one.
    """
    model = attempt.route.model
    slices = translating_chat(
        chat, model.id, version, max_output=model.max_output_tokens, keeps_most=request.has_hard_budget
    )
    messages, to_messages = await request.services.time_slices.start_now(slices)
    attempt.translation = to_messages if translation is None else with_hop(translation, to_messages)
    return await send(request, attempt, (messages,), _MESSAGES_PATH)


def reading_translated(
    request: InferenceRequest,
    body: bytes,
    translation: Translation,
    translate: Callable[[bytes], tuple[bytes, Usage | None]],
    most: int = MAX_TRANSLATED_BYTES,
) -> Slices[tuple[bytes, Usage | None]]:
    """Return a whole response as `translate` makes it of that of an endpoint, and its usage. Raises UpstreamError.

    `most`: bytes that are translated; a longer response would take too long.
    """
    if len(body) > most:
        request.services.bound_hits.hit(TRANSLATED_RESPONSE)
        raise UpstreamError(BROKEN, causes.LARGE_TRANSLATION.format(most=most >> 20))
    yield from ()
    try:
        return read_by_chat(body, request.parsed.model, translation, translate)
    except NoChatCompletion as error:
        raise UpstreamError(BROKEN, str(error), error.endpoint_error) from None


def _without_options(body: bytes) -> bytes:
    """Return a request without the option that asks for usage."""
    fields = _decode_object(body)
    fields.pop("stream_options", None)
    return msgspec.json.encode(fields)
