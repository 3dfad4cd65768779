"""The use that a request reserves from budgets when it gets an endpoint, and its cost at its end."""

import time
from math import floor

from gateway.base.request_kinds import CAN_DRAW, CAN_TRANSCRIBE
from gateway.inference.request import InferenceRequest
from gateway.ipc.counters.counter_file import MAX_TOKENS_IN_CELL
from gateway.ipc.record import RequestRecord
from gateway.limits.budgets import Reserve
from gateway.limits.compiled import LimitedRequest
from gateway.registry.reader import StoreUnreadable
from gateway.routing.routes import LearnedRoutes, Route

CACHED_LENGTHS = 1_000  # by API key, of each model and kind
MOST_OUTPUT = 131_072  # tokens, if neither the request nor the model limits them
# Bytes of a second of audio, by which an upload is taken for so long: of a usual MP3 file (64 kbit/s), and the least,
# which is that of Opus (6 kbit/s).
USUAL_AUDIO, LEAST_AUDIO = 8_000, 750


def expected_tokens(request: InferenceRequest) -> tuple[int, float, float]:
    """Return the tokens that a request is expected to need: of its prompt, by the size of its body; of its output, by
    the mean of the requests before it; and of the output of an average request for its model.
    """
    parsed, exchange, chain = request.parsed, request.exchange, request.chain
    learned, key = request.services.learned, exchange.api_key
    key_id = None if key is None else key.id
    if chain is None or chain.leaf is None:
        of = parsed.model, key_id
        # An index of a dict with `__missing__` takes three times as long.
        output, bytes_per_token, typical = learned.lengths.get(of) or learned.lengths[of]
    else:
        output, bytes_per_token, typical = learned.lengths_through(chain.requested, chain.leaf.model, key_id)
    most = parsed.max_tokens
    if not request.api.kind.generates:
        output = typical = 0.0
    elif most is not None and most < output:
        output = most + 0.0
    return floor((exchange.length or exchange.body_bytes) / bytes_per_token) or 1, output, typical


def expected_lengths(request: InferenceRequest, known: LearnedRoutes) -> tuple[float, float]:
    """Add to `LearnedRoutes.lengths` those of the API key of a request without a model name, and return them."""
    key_id = request.key_id
    output, bytes_per_token, _ = request.services.learned.lengths[request.parsed.model, key_id]
    if len(known.lengths) >= CACHED_LENGTHS:
        known.lengths.clear()
    found = known.lengths[key_id] = output if request.api.kind.generates else 0.0, bytes_per_token
    return found


def reserve(request: InferenceRequest, limited: LimitedRequest) -> None:
    """Set the tokens that a request takes from limits on tokens, until it is known how many it has used."""
    if limited.compiled.has_tokens and limited.reserved is None and request.api.kind.needs_slot:
        prompt, output, _ = expected_tokens(request)
        limited.prompt = prompt
        limited.reserved = min(prompt + int(output) * request.parsed.choices, MAX_TOKENS_IN_CELL)


def reserve_budgets(request: InferenceRequest, limited: LimitedRequest, route: Route) -> None:
    """Set the use that a request reserves at an endpoint."""
    reserve(request, limited)
    compiled = limited.compiled
    prompt, output = most_tokens(request, route) if compiled.has_hard else (0, 0)
    limited.most = prompt + output
    if compiled.has_money:
        limited.cost = _cost(request, limited, route, prompt, output)


def most_tokens(request: InferenceRequest, route: Route) -> tuple[int, int]:
    """Return the tokens of prompt and output that a request can use at most: no token has less than one byte."""
    exchange, model = request.exchange, route.model
    prompt, output = exchange.length or exchange.body_bytes, 0
    if request.api.kind.generates:
        output = request.parsed.max_tokens or model.max_output_tokens or model.max_tokens or MOST_OUTPUT
        output *= request.parsed.choices
    return prompt, output


def _cost(request: InferenceRequest, limited: LimitedRequest, route: Route, prompt: int, output: int) -> Reserve | None:
    """Return what a request may cost at an endpoint; None: it has no price there, or its currency no rate.

    The images of a request that has a form are not known: it reserves one. The duration of audio that is uploaded is
    known by the size of the form only.
    """
    prices, now = request.services.limits.prices, time.time()
    exchange, capability = request.exchange, request.api.kind.capability
    audio = 1000 * (exchange.length or exchange.body_bytes) if capability == CAN_TRANSCRIBE else 0
    try:
        rows = prices.rows_for(route.model.id or request.model, route.model.canonical, route.endpoint.id)
        output_expected = (limited.reserved or 0) - limited.prompt
        images = request.parsed.choices if capability == CAN_DRAW else 0
        expected = prices.expected_cost(
            rows, now, limited.prompt, output_expected, images=images, audio_ms=audio // USUAL_AUDIO
        )
        if expected is None:
            return None
        most = None
        if limited.compiled.has_hard:
            most = prices.most_cost(rows, now, prompt, output, images, audio // LEAST_AUDIO)
    except StoreUnreadable:
        return None
    return Reserve(expected, max(expected, most or 0))


def cost_of(request: InferenceRequest, limited: LimitedRequest, made: RequestRecord) -> int:
    """Return the cost of a finished request, as control computes it from its record; 0: nothing counts it."""
    if not limited.compiled.has_money:
        return 0
    try:
        return request.services.limits.prices.cost_of(made) or 0
    except StoreUnreadable:
        return 0  # control counts it when it folds the record
