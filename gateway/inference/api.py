"""The default API of a request: OpenAI's, passed through to the endpoint."""

from collections.abc import Coroutine
from typing import Any

from gateway.base import errors
from gateway.base.errors import error_body
from gateway.base.request_kinds import Kind
from gateway.base.types import Body
from gateway.dialects.endpoint_errors import EndpointError
from gateway.dialects.json_outline import Outline
from gateway.dialects.openai_events import CHUNKS, DIALECTS
from gateway.dialects.openai_requests import Request, decode_small, request_of
from gateway.dialects.openai_responses import Usage, read_large_response, read_response
from gateway.dialects.prompt_fields import PromptFields
from gateway.dialects.sse_relay import Relay, StreamRelay
from gateway.inference.attempt import Attempt
from gateway.inference.error_responses import sentence_of
from gateway.inference.request import InferenceRequest
from gateway.inference.sending import adapted_body, send, send_with_usage
from gateway.loop.time_slices import Slices
from gateway.routing.affinity.prompts import session_in
from gateway.upstream import targets
from gateway.upstream.connection import Connection


class OpenAiApi:
    """An API of OpenAI's. Other APIs are subclasses that replace some of its methods; see `Api` for their contracts."""

    relays_huge = True

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.dialect = DIALECTS.get(kind.name, CHUNKS)

    def parse(self, request: InferenceRequest, body: Body) -> Request:
        found = decode_small(body)
        parsed = request_of(found)
        read_prefix(request, parsed, found, len(body))
        return parsed

    async def check_big(self, request: InferenceRequest, body: Body, top: Outline | None) -> None:
        """Check nothing further."""

    def query(self, request: InferenceRequest) -> bytes:
        return targets.query(self.kind.query, request.exchange.line.query)

    def send(self, request: InferenceRequest, attempt: Attempt, body: Body) -> Coroutine[Any, Any, Connection]:
        parsed, route, endpoint = request.parsed, attempt.route, attempt.endpoint
        if parsed.stream and not parsed.wants_usage and self.dialect.usage_on_request and not endpoint.usage_refused:
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

    def new_relay(self, request: InferenceRequest, attempt: Attempt) -> Relay:
        return StreamRelay(self.dialect, request.parsed.model, hide_usage=attempt.usage_added)

    def read(self, request: InferenceRequest, attempt: Attempt, body: bytes) -> tuple[bytes, Usage | None]:
        return read_response(body, request.parsed.model)

    def read_slices(
        self, request: InferenceRequest, attempt: Attempt, body: bytes
    ) -> Slices[tuple[bytes, Usage | None]]:
        return read_large_response(body, request.parsed.model)

    def endpoint_error(self, status: int, body: bytes, details: EndpointError) -> bytes:
        if details.is_json:
            return body
        return error_body(status, errors.UPSTREAM_ERROR, sentence_of(details, status))

    def error_body(self, request: InferenceRequest, status: int, code: str, message: str, param: str | None) -> bytes:
        return error_body(status, code, message, param)


def read_prefix(request: InferenceRequest, parsed: Request, fields: PromptFields, body_bytes: int) -> None:
    """Read the beginning of a request's prompt. `fields` share the memory of the body, and are not kept."""
    affinity = request.services.affinity
    if affinity is None or not request.api.kind.generates:
        return
    exchange = request.exchange
    key = exchange.api_key
    request.prefix = affinity.read(
        fields,
        session_in(exchange.head.fields),
        None if key is None else key.id,
        parsed.model,
        body_bytes,
        marked=len(request.services.roster.routes(parsed.model)) > 1,
    )
