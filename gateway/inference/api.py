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
from gateway.dialects.openai_requests import Request, parse_whole
from gateway.dialects.openai_responses import Usage, read_large_response, read_response
from gateway.dialects.sse_relay import Relay, StreamRelay
from gateway.inference.attempt import Attempt
from gateway.inference.error_responses import sentence_of
from gateway.inference.request import InferenceRequest
from gateway.inference.sending import adapted_body, send, send_with_usage
from gateway.loop.time_slices import Slices
from gateway.upstream import targets
from gateway.upstream.connection import Connection


class OpenAiApi:
    """An API of OpenAI's. Other APIs are subclasses that replace some of its methods; see `Api` for their contracts."""

    relays_huge = True

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.dialect = DIALECTS.get(kind.name, CHUNKS)

    def parse(self, request: InferenceRequest, body: Body) -> Request:
        return parse_whole(body)

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
