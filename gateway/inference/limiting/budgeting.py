"""The use that a request reserves from budgets when it gets an endpoint, and its cost at its end."""

import time

import msgspec

from gateway.base.request_kinds import CAN_DRAW, CAN_TRANSCRIBE
from gateway.dialects.requested_tokens import NAMES_OF_CHOICES, NAMES_OF_MOST, choices_of, most_of
from gateway.inference.request import InferenceRequest
from gateway.ipc.counters.counter_file import MAX_TOKENS_IN_CELL
from gateway.ipc.record import RequestRecord
from gateway.limits.budgets import Reserve
from gateway.limits.compiled import LimitedRequest
from gateway.model_names.plan import NameParameters
from gateway.registry.reader import StoreUnreadable
from gateway.registry.schema import Model
from gateway.routing.routes import Route

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
        output, bytes_per_token, typical = learned.lengths[parsed.model, key_id]
    else:
        output, bytes_per_token, typical = learned.lengths_through(chain.requested, chain.leaf.model, key_id)
    most = parsed.max_tokens
    if not request.api.kind.generates:
        output = typical = 0.0
    elif most is not None and most < output:
        output = float(most)
    return int(exchange.size / bytes_per_token) or 1, output, typical


def expected_prompt(request: InferenceRequest, route: Route) -> int:
    """Return the tokens of the prompt that a request is expected to have at an endpoint: no more than fit the model."""
    prompt, _, _ = expected_tokens(request)
    context = route.model.max_tokens
    return prompt if not context or prompt < context else context


def reserve(request: InferenceRequest, limited: LimitedRequest, route: Route | None = None) -> None:
    """Set the use that a request takes from its limits and budgets, until it is known how much it has used: tokens, and
    with the route to its endpoint also the most tokens and the cost for budgets.
    """
    compiled = limited.compiled
    if compiled.has_tokens and limited.reserved is None and request.api.kind.needs_slot:
        prompt, output, _ = expected_tokens(request)
        limited.prompt = prompt
        limited.reserved = min(prompt + int(output) * request.parsed.choices, MAX_TOKENS_IN_CELL)
    if route is None or not compiled.budgets:
        return
    most_prompt, most_output = most_tokens(request, route) if compiled.has_hard else (0, 0)
    limited.most = most_prompt + most_output
    if compiled.has_money:
        limited.cost = _cost(request, limited, route, most_prompt, most_output)


def most_tokens(request: InferenceRequest, route: Route) -> tuple[int, int]:
    """Return the tokens of prompt and output that a request can use at most: no token has less than one byte.

    It holds for each endpoint to which the request may go on after a failure.
    """
    exchange, parsed, chain = request.exchange, request.parsed, request.chain
    prompt = exchange.size
    if not request.api.kind.generates:
        return prompt, 0
    most, choices = parsed.max_tokens, parsed.choices
    names = {parsed.model} if chain is None else {leaf.model for leaf in chain.plan.leaves}
    if chain is not None:
        for parameters in [each for leaf in chain.plan.leaves for each in leaf.parameters]:
            most, choices = _changed(most, choices, parameters)
    if most:
        return prompt, most * choices
    routes = [route, *[each for name in names for each in request.services.roster.routes(name)]]
    return prompt, max(_most_output(each.model) for each in routes) * choices


def _most_output(model: Model) -> int:
    return model.max_output_tokens or model.max_tokens or MOST_OUTPUT


def _changed(most: int | None, choices: int, parameters: NameParameters) -> tuple[int | None, int]:
    """Return the most output tokens of a response, and the number of responses, with what a model name changes."""
    values = {**parameters.defaults, **parameters.overrides}
    if not most or any(name in NAMES_OF_MOST for name in parameters.dropped):
        most = None
    else:
        most = most_of((most, *[msgspec.json.decode(values[name]) for name in NAMES_OF_MOST if name in values]))
    return most, choices_of(
        (choices, *[msgspec.json.decode(values[name]) for name in NAMES_OF_CHOICES if name in values])
    )


def _cost(request: InferenceRequest, limited: LimitedRequest, route: Route, prompt: int, output: int) -> Reserve | None:
    """Return what a request may cost at an endpoint; None: it has no price there, or its currency no rate.

    The images of a request that has a form are not known: it reserves one. The duration of audio that is uploaded is
    known by the size of the form only.
    """
    prices, now = request.services.limits.prices, time.time()
    exchange, capability = request.exchange, request.api.kind.capability
    audio = 1000 * exchange.size if capability == CAN_TRANSCRIBE else 0
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
