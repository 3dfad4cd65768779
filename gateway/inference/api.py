"""The default API of a request: OpenAI's, passed through to the endpoint."""

from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import msgspec

from gateway.base import errors
from gateway.base.errors import error_body
from gateway.base.request_kinds import Kind
from gateway.base.types import Body
from gateway.dialects.anthropic.chat_responses import error_from_message
from gateway.dialects.deciding_fields import checking
from gateway.dialects.endpoint_errors import EndpointError
from gateway.dialects.json_outline import Outline
from gateway.dialects.media import with_media
from gateway.dialects.openai_events import CHUNKS, DIALECTS
from gateway.dialects.openai_requests import Request, reading_request
from gateway.dialects.openai_responses import BIG_BYTES, reading_response
from gateway.dialects.prompt_fields import PromptFields
from gateway.dialects.sse_relay import StreamRelay, with_reasons
from gateway.dialects.usage import Usage
from gateway.http.exchange import UNREAD
from gateway.inference.attempt import Attempt
from gateway.inference.error_responses import sentence_of
from gateway.inference.inference import serve
from gateway.inference.limiting.checked_bodies import is_restricted
from gateway.inference.request import InferenceRequest
from gateway.inference.sending import adapted_body, send, send_with_usage
from gateway.loop.time_slices import Slices
from gateway.providers.bodies import provider_body
from gateway.routing.adaptive import NEGLIGIBLE_READ
from gateway.routing.affinity.prompts import FIRST_BYTES, session_in, session_of
from gateway.upstream import targets
from gateway.upstream.connection import Connection


class OpenAiApi:
    """An API of OpenAI's. Other APIs are subclasses that replace some of its methods; see `Api` for their contracts."""

    relays_huge = True
    reads_lines = False

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.dialect = DIALECTS.get(kind.name, CHUNKS)

    def parsing(self, request: InferenceRequest, body: Body) -> Slices[Outline | None]:
        """Return the outline of a big body, too."""
        parsed, prompt, top = yield from reading_request(body)
        request.parsed = parsed
        names = request.services.roster.names
        if parsed.models is not None or (names is not None and (names.has_patterns or parsed.model in names.exact)):
            request.begin_chain(parsed, None if top is None else top.values)
        read_prefix(request, parsed, prompt, len(body))
        if is_restricted(request):
            yield from checking(body, top)
        return top

    def serve(self, request: InferenceRequest, body: Body) -> Coroutine[Any, Any, None]:
        return serve(request, body)

    def query(self, request: InferenceRequest) -> bytes:
        return targets.query(self.kind.query, request.exchange.line.query)

    def send(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Coroutine[Any, Any, Connection]:
        parsed, route, endpoint = request.parsed, attempt.route, attempt.endpoint
        if endpoint.provider is not None:
            own = provider_body(body, endpoint.provider, self.kind.name, route.model.id, has_options=parsed.has_options)
            if own is not body:  # the places of its fields are others
                body, parsed = own, msgspec.structs.replace(parsed, model_at=None, options_at=None)
                request.parsed = parsed
        if (
            parsed.stream
            and not parsed.wants_usage
            and self.dialect.usage_on_request
            and not endpoint.memory.usage_refused
        ):
            attempt.usage_added = True
            return send_with_usage(
                request,
                attempt,
                adapted_body(request, route, body, include_usage=True),
                lambda: adapted_body(request, route, body, include_usage=False),
            )
        if route.model.id == parsed.model:
            return send(request, attempt, (body,))
        return send(request, attempt, adapted_body(request, route, body, include_usage=False))

    def can_resend(self) -> bool:
        return True

    def new_relay(self, request: InferenceRequest, attempt: Attempt) -> StreamRelay:
        dialect, provider = self.dialect, attempt.endpoint.provider
        if provider is not None and provider.finish_reasons:
            dialect = replace(dialect, own_reasons=provider.finish_reasons)
        return StreamRelay(dialect, request.parsed.model, hide_usage=attempt.usage_added)

    def reading(self, request: InferenceRequest, attempt: Attempt, body: bytes) -> Slices[tuple[bytes, Usage | None]]:
        if (provider := attempt.endpoint.provider) is not None:
            body = with_reasons(body, provider.finish_reasons)
        return reading_response(body, request.parsed.model)

    def endpoint_error(self, status: int, body: bytes, details: EndpointError) -> bytes:
        if details.is_json:
            return error_from_message(body) or body
        return error_body(status, errors.UPSTREAM_ERROR, sentence_of(details, status))

    def error_event(self, request: InferenceRequest, body: bytes) -> bytes:
        return self.dialect.error_event(body)

    def error_body(
        self,
        request: InferenceRequest,
        status: int,
        code: str,
        message: str,
        param: str | None,
        error_type: str | None = None,
    ) -> bytes:
        return error_body(status, code, message, param, error_type)


class MediaApi(OpenAiApi):
    """The API of images and transcripts."""

    def reading(self, request: InferenceRequest, attempt: Attempt, body: bytes) -> Slices[tuple[bytes, Usage | None]]:
        client_body, usage = yield from super().reading(request, attempt, body)
        if len(body) > BIG_BYTES:
            yield
        return client_body, with_media(usage, self.kind.name, body)


def read_prefix(request: InferenceRequest, parsed: Request, fields: PromptFields, body_bytes: int) -> None:
    """Read the beginning of a request's prompt. `fields` share the memory of the body, and are not kept."""
    affinity = request.services.affinity
    if affinity is None:
        return
    head = request.exchange.head
    session = head.session
    if session is UNREAD:
        session = head.session = session_in(head.fields)
    if session is None and body_bytes < FIRST_BYTES and not fields.prompt_cache_key:
        return
    if not request.api.kind.generates:
        return
    key = request.exchange.api_key
    key_id = None if key is None else key.id
    chain, roster = request.chain, request.services.roster
    if chain is not None:
        matters = chain.plan.has_choice(roster)
    else:
        routes = roster.routes(parsed.model)
        known = routes.learned.get(request.api.kind.name)
        matters = len(routes) > 1 and (
            known is None
            or known.slowest_read * body_bytes >= NEGLIGIBLE_READ
            or session is not None
            or bool(fields.prompt_cache_key)
        )
    if not matters:
        request.conversation = affinity.conversation(fields, session, key_id, parsed.model, body_bytes)
        return
    prefix = affinity.read(fields, session, key_id, parsed.model, body_bytes)
    if prefix is not None:
        request.conversation = prefix.conversation
        if not prefix.has_marks:
            return
        if chain is None:
            request.prefix = prefix
        else:
            chain.prefix, chain.session = prefix, session_of(fields) if session is None else session
