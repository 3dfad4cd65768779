"""Requests for the details of one model (/api/show): each counts for limits, and has a record.

An Ollama describes its models itself. A description holds for a minute. It counts as no request for inference.
"""

import time
from collections import OrderedDict

import msgspec

from gateway.base.request_kinds import SHOW
from gateway.dialects.openai_requests import Request
from gateway.http.exchange import JSON, Exchange
from gateway.inference.attempt import LookupAttempt
from gateway.inference.inference import end_by_error
from gateway.inference.limiting.admission import admit, find_limits, refusal_of
from gateway.inference.recording import finish
from gateway.inference.request import Api, InferenceRequest
from gateway.inference.services import Services
from gateway.ipc import record
from gateway.registry.schema import Model
from gateway.routing.balancer import ONLY, Decision
from gateway.routing.endpoint import Endpoint
from gateway.routing.routes import Route
from gateway.upstream.errors import EndpointWithdrawn, UpstreamError

PRIVATE = (b"referrer-policy", b"no-referrer")  # the address of the page may have an API key
SHOW_SECONDS = 5.0  # for an Ollama's response
MAX_SHOWN_BYTES = 1 << 20
CACHE_SECONDS = 60.0
MAX_CACHED_BYTES = 16 << 20

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class ShownModels:
    """Descriptions of models by servers of the type Ollama, of the last minute."""

    def __init__(self, max_bytes: int = MAX_CACHED_BYTES) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._shown: OrderedDict[tuple[str, str], tuple[float, bytes]] = OrderedDict()  # the oldest first

    def find(self, endpoint_id: str, model: str, now: float) -> bytes | None:
        """Return a description; None if there is none. `now`: time.monotonic()."""
        until, shown = self._shown.get((endpoint_id, model), (0.0, b""))
        return shown if now < until else None

    def add(self, endpoint_id: str, model: str, shown: bytes, now: float) -> None:
        """Keep a description of this moment; the oldest leave if there is no room."""
        _, former = self._shown.pop((endpoint_id, model), (0.0, b""))
        self._shown[endpoint_id, model] = now + CACHE_SECONDS, shown
        self._size += len(shown) - len(former)
        while self._size > self._max_bytes:
            _, (_, oldest) = self._shown.popitem(last=False)
            self._size -= len(oldest)


async def show(
    services: Services,
    cache: ShownModels,
    api: Api,
    exchange: Exchange,
    name: str,
    ollama_route: Route | None,
    known: bytes,
) -> None:
    """Send the description of a model by an Ollama; without `ollama_route`, the one that RouterDash has (`known`).

    `name`: of the model. Raises Refusal.
    """
    request = InferenceRequest(services, exchange, api)
    request.parsed = Request(name, False, False)
    services.running.add(request)
    try:
        find_limits(request)
        if request.limited is not None and admit(request, request.limited) is not None:
            raise refusal_of(request.limited)
        shown = None if ollama_route is None else await _shown_by(request, cache, ollama_route)
        finish(request, record.OK, 200)
        exchange.reply(200, (JSON, PRIVATE), known if shown is None else shown, request.header_lines())
    except BaseException as error:  # noqa: BLE001  # raised again there
        end_by_error(request, error)
    finally:
        services.running.discard(request)
        request.leave_endpoint()


async def _shown_by(request: InferenceRequest, cache: ShownModels, route: Route) -> bytes | None:
    """Return an Ollama's description of its model, of now or the last minute; None if it has none."""
    endpoint, model = route.endpoint, route.model.id
    cached = cache.find(endpoint.id, model, time.monotonic())
    if cached is not None:
        return cached
    endpoint.enter()  # even if all slots are taken: nothing is generated
    attempt = LookupAttempt(Route(endpoint, Model(model)), Decision(endpoint.id, ONLY, ()), trial=False)
    request.attempt = attempt
    attempt.started = time.monotonic()
    try:
        shown = await _ask(request, attempt, endpoint, model)
    except (UpstreamError, EndpointWithdrawn):
        shown = None
    except BaseException:
        attempt.close_connection()
        raise
    if shown is None:  # it may be too old for this path: that is no failure
        attempt.close_connection()
        request.leave_endpoint()
        request.attempt = None
        return None
    cache.add(endpoint.id, model, shown, time.monotonic())
    return shown


async def _ask(request: InferenceRequest, attempt: LookupAttempt, endpoint: Endpoint, model: str) -> bytes | None:
    """Return an Ollama's response without its `modelfile`, which has paths of its disk. Raises UpstreamError,
    EndpointWithdrawn, and Refusal (503) if the buffers are full.
    """
    body = _encode({"model": model})
    head = b"POST %b%b HTTP/1.1\r\n%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (
        endpoint.pool.prefix,
        SHOW.target,
        endpoint.fixed_head,
        len(body),
    )
    connection = await endpoint.pool.request(head, (body,), SHOW_SECONDS, holder=attempt)
    shown = await connection.read_all(request.exchange.reserve_response(), MAX_SHOWN_BYTES)
    if connection.status != 200 or len(shown) > MAX_SHOWN_BYTES:
        return None
    try:
        fields = _decode_object(endpoint.redactor.clean(shown))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return _encode({**fields, "modelfile": ""})
