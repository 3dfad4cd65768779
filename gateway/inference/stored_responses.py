"""Stored responses: read, delete and cancel them at the endpoint that stores them.

GET and DELETE /v1/responses/{id}, POST …/cancel, GET …/input_items. If ROUTERDASH_OPEN_RESPONSES opens unknown ids to
every key, the endpoints are queried one after another.
"""

import logging
import time
from functools import partial

from gateway.base import errors
from gateway.base.errors import Refusal
from gateway.base.request_kinds import RESPONSES, STORED_RESPONSES
from gateway.base.types import Body
from gateway.dialects.openai_events import DIALECTS
from gateway.dialects.openai_requests import Request
from gateway.dialects.openai_responses import BIG_BYTES, reading_response
from gateway.dialects.sse_relay import StreamRelay
from gateway.dialects.usage import Usage
from gateway.http.exchange import Exchange
from gateway.http.key_permissions import may_use_external, use_of
from gateway.inference.api import OpenAiApi
from gateway.inference.attempt import Attempt, LookupAttempt
from gateway.inference.error_responses import give_up, pass_refusal
from gateway.inference.failures.error_bodies import read_error_body
from gateway.inference.inference import end_by_error
from gateway.inference.limiting.admission import admit, find_limits, refusal_of
from gateway.inference.relaying import relay_stream
from gateway.inference.request import InferenceRequest
from gateway.inference.responding import respond, respond_big
from gateway.inference.sending import check_loop, send
from gateway.inference.services import Services
from gateway.inference.stored import background
from gateway.inference.stored.relays import CountedOnceRelay
from gateway.inference.stored_ids import (
    decode_items,
    endpoint_of,
    id_writer,
    not_found,
    reading_object,
    store_items,
)
from gateway.loop.time_slices import Slices
from gateway.providers.errors import NOT_FOUND_STATUSES
from gateway.registry.schema import Model
from gateway.routing.balancer import CREATOR, EXCLUDED, SEARCHED, Decision
from gateway.routing.endpoint import Endpoint
from gateway.routing.routes import Route
from gateway.upstream import targets
from gateway.upstream.errors import EndpointWithdrawn, UpstreamError
from gateway.upstream.targets import StoredTarget

log = logging.getLogger(__name__)

SEARCH_SECONDS = 5.0  # for an endpoint to report whether it has a response


class StoredResponsesApi(OpenAiApi):
    """The API of one request for a stored response.

    Its tokens were counted when it was created; those of one in the background, where it is first read complete.
    """

    def __init__(self, target: StoredTarget) -> None:
        super().__init__(STORED_RESPONSES)
        self._target = target

    def query(self, request: InferenceRequest) -> bytes:
        if request.exchange.line.method in (b"GET", b"HEAD"):
            return targets.query(self._target.query, request.exchange.line.query)
        return b""

    def new_relay(self, request: InferenceRequest, attempt: Attempt) -> StreamRelay:
        relay = CountedOnceRelay(DIALECTS[RESPONSES], request.parsed.model, hide_usage=False)
        relay.claim = partial(background.claim, request, attempt, self._target.response_id)
        return relay

    def reading(self, request: InferenceRequest, attempt: Attempt, body: bytes) -> Slices[tuple[bytes, Usage | None]]:
        response = yield from reading_object(body)
        _set_model(request, response.model)
        if attempt.decision.reason == CREATOR:  # the items of its input got their ids at the endpoint
            store_items(id_writer(request, attempt), decode_items(memoryview(response.data)) or ())
        if response.id != self._target.response_id or response.status in background.RUNNING:
            return body, None
        _, usage = yield from reading_response(body, request.parsed.model)
        return body, self._counted(request, attempt, usage)

    def _counted(self, request: InferenceRequest, attempt: Attempt, usage: Usage | None) -> Usage | None:
        """Return the usage of a complete response if it is not counted yet."""
        is_counted_here = usage is not None and background.claim(request, attempt, self._target.response_id)
        return usage if is_counted_here else None


def _set_model(request: InferenceRequest, model: object) -> None:
    if isinstance(model, str):
        request.parsed = Request(model, False, False)


def methods_of(path: bytes) -> bytes | None:
    """Return the methods of a path below /v1/responses/, separated by commas; None for an unknown path."""
    target = targets.stored(path)
    return None if target is None else target.methods


async def run(services: Services, exchange: Exchange) -> None:
    """Serve a request for a stored response. Raises Refusal."""
    target = targets.stored(exchange.line.path)
    assert target is not None  # a path that is none has no route
    api = StoredResponsesApi(target)
    request = InferenceRequest(services, exchange, api)
    if b"via" in exchange.head.fields:
        check_loop(request)
    body = exchange.take_body()
    request.target = target.path
    if exchange.line.query:
        request.target += api.query(request)
    if services.stores_bodies:
        request.body = body
    services.running.add(request)
    try:
        find_limits(request)
        await _search(request, target.response_id, body)
    except BaseException as error:  # noqa: BLE001  # raised again there
        end_by_error(request, error)
    finally:
        services.running.discard(request)
        services.roster.row.counts.served += len(request.attempts) > 0
        request.leave_endpoint()


async def _search(request: InferenceRequest, response_id: str, body: Body) -> None:
    """Query the endpoints that may store a response, one after another. Raises Refusal if none has it."""
    for endpoint, reason in _candidates(request, response_id):
        if request.limited is not None and admit(request, request.limited) is not None:
            raise refusal_of(request.limited)
        endpoint.enter()  # even if all slots are taken: nothing is generated
        attempt = LookupAttempt(Route(endpoint, Model("")), Decision(endpoint.id, reason, ()), trial=False)
        request.attempt = attempt
        if await _respond_from(request, attempt, body):
            return
        request.leave_endpoint()
    raise not_found(response_id)


def _candidates(request: InferenceRequest, response_id: str) -> list[tuple[Endpoint, str]]:
    """Return the endpoint that stores a response, or all that may. Raises Refusal."""
    endpoints = request.services.roster.endpoints
    stored_at = endpoint_of(request, response_id, None)
    may_use_all, use = may_use_external(request.exchange), use_of(request.exchange)
    if stored_at is not None:
        if stored_at not in endpoints:
            return []
        if endpoints[stored_at].facts.external and not may_use_all:
            message = f"{response_id[:256]!r} is stored at an external endpoint, which this API key may not use."
            raise Refusal(403, errors.EXTERNAL_NOT_ALLOWED, message)
        if use is not None and not use.allows_endpoint(stored_at, endpoints[stored_at].facts.tags):
            message = f"{response_id[:256]!r} is stored at an endpoint that this API key may not use."
            raise Refusal(403, errors.MODEL_NOT_ALLOWED, message)
        return [(endpoints[stored_at], CREATOR)]
    available = [
        endpoint
        for endpoint in endpoints.values()
        if endpoint.rank < EXCLUDED
        and (may_use_all or not endpoint.facts.external)
        and (use is None or use.allows_endpoint(endpoint.id, endpoint.facts.tags))
    ]
    return [(endpoint, SEARCHED) for endpoint in sorted(available, key=lambda endpoint: endpoint.rank)]


async def _respond_from(request: InferenceRequest, attempt: Attempt, body: Body) -> bool:
    """Query one endpoint. Return False if it does not have the response, which is no failure of the endpoint."""
    attempt.started = time.monotonic()
    try:
        connection = await send(request, attempt, (body,), timeout=SEARCH_SECONDS)
        if connection.status in NOT_FOUND_STATUSES:
            await read_error_body(request, attempt, connection)
            return False
        if connection.status < 400 and connection.response.is_stream:
            failure = await relay_stream(request, attempt, connection)
            if failure is not None:
                request.leave_endpoint()
                give_up(request, failure)
            return True
        if connection.status >= 400:
            pass_refusal(request, attempt, connection, await read_error_body(request, attempt, connection))
            return True
        response = await connection.read_all(request.exchange.reserve_response())
    except (UpstreamError, EndpointWithdrawn) as error:
        name = attempt.endpoint.facts.name
        log.info("%s could not be queried for a stored response: %s; the next endpoint is tried", name, error)
        attempt.close_connection()
        return False
    except BaseException:
        attempt.close_connection()
        raise
    if len(response) > BIG_BYTES:
        only = [response]
        response = b""
        await respond_big(request, attempt, connection, only)
    else:
        respond(request, attempt, connection, response)
    return True
