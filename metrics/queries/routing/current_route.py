"""Where a request for a model would go now, by the balancer of the gateways. Needs the running installation."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from django.conf import settings

from gateway.base.config import ADAPTIVE
from gateway.base.request_kinds import BY_NAME, GENERATING
from gateway.dialects.needs import NO_NEEDS, Needs, needs_of
from gateway.model_names.plan import ModelNames, NamePlan, plan_of_list
from gateway.registry.schema import EndpointFacts, Model, Speeds
from gateway.routing.adaptive import NEGLIGIBLE_READ, NEVER, UNKNOWN_BYTES_PER_TOKEN, rows_of, slowest_read
from gateway.routing.expected_time import Demand
from gateway.routing.loaded_models import LoadedModels
from metrics.memory.runtime import runtime
from metrics.model_names.steps_preview import StepsPreview, StepsQuestion
from metrics.queries.requests.conversations import Conversation
from metrics.queries.routing import routing_preview
from metrics.queries.routing.adaptive_preview import NOT_MEASURED, PreviewLoad, adaptive_payload, demand_of
from metrics.queries.routing.routing_preview import PreviewCandidate, RoutePayload, with_last_resort
from metrics.queries.routing.sample_request import SampleRequest, kept_at, kept_tokens, sample_demand


@dataclass(frozen=True, slots=True)
class RouteQuestion:
    """The request whose route is asked. Adaptive routing expects of it what its `sample` has.

    Without one, it would be the next request of a `conversation`, or have these tokens; None: as many as usual.
    """

    model: str
    kind: str
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    sample: SampleRequest | None = None
    conversation: Conversation | None = None
    may_use_external: bool = True  # the API key, if one would send it

    @property
    def needs(self) -> Needs:
        """What the request needs of a model; without a sample, nothing is known of it."""
        return NO_NEEDS if self.sample is None else needs_of(BY_NAME[self.kind], self.sample.fields)


def current_route(question: RouteQuestion) -> RoutePayload | None:
    """Return the payload of /api/route; None if nothing is published or no endpoint has the model."""
    state, model = runtime.installation, question.model
    plan = _plan(question, state.model_names())
    if plan is not None:
        steps = StepsQuestion(
            question.kind, question.may_use_external, lambda of: _prompt_tokens(question, of), question.needs
        )
        preview = StepsPreview(
            steps, state.routes, lambda target, routes: _route(replace(question, model=target), routes)
        )
        return preview.payload(model, plan)
    routes = state.routes(model)
    if not routes:
        return None
    if not question.may_use_external:
        routes = [route for route in routes if not route[0].external] or routes
    return _route(question, routes)


def expected_tokens(question: RouteQuestion, key_id: str | None) -> int:
    """Return the tokens that a gateway expects of the request of an API key: these it takes from limits on tokens.

    Each of the choices that the request asks for has the expected output.
    """
    lengths = runtime.installation.lengths(question.model, key_id)
    if question.sample is not None:
        generates = question.kind in GENERATING
        demand = sample_demand(question.sample, lengths, lengths.output, generates=generates)
    else:
        demand = demand_of(question.kind, lengths, question.prompt_tokens, question.output_tokens)
    choices = 1 if question.sample is None else question.sample.parsed.choices
    return int(demand.prompt) + int(demand.output) * choices


def _plan(question: RouteQuestion, names: ModelNames | None) -> NamePlan | None:
    """Return the steps of the model name, or of the models that the request names."""
    further = None if question.sample is None else question.sample.parsed.models
    if further is not None:
        return plan_of_list(list(dict.fromkeys((question.model, *further))), names, _Published())
    return None if names is None else names.plan(question.model, _Published())


class _Published:
    """The models that gateways know, for names that were read just now."""

    version = 0

    def routes(self, model: str) -> list[tuple[EndpointFacts, Model]]:
        return runtime.installation.routes(model)


def _prompt_tokens(question: RouteQuestion, model: str) -> float | None:
    """Return the tokens of the prompt, as gateways estimate them; None if nothing is known of it."""
    sample = question.sample
    if sample is None:
        return question.prompt_tokens
    lengths = runtime.installation.lengths(model, sample.key_id)
    return sample.body_bytes / (lengths.bytes_per_token or UNKNOWN_BYTES_PER_TOKEN)


def _route(question: RouteQuestion, routes: Sequence[tuple[EndpointFacts, Model]]) -> RoutePayload:
    """Return the route of a request for a model among these endpoints."""
    state, model, kind = runtime.installation, question.model, question.kind
    candidates = routing_preview.candidates(
        routes, kind, state.in_flight(), state.trials(), time.time(), state.pending(), state.aside()
    )
    if needs := question.needs:
        candidates = [replace(candidate, needs=needs) for candidate in candidates]
    if settings.ROUTERDASH.balancer != ADAPTIVE:
        return with_last_resort(candidates, lambda some: routing_preview.route_payload(model, kind, some))
    learned = {candidate.id: state.speeds(candidate.id, candidate.model.id, kind) for candidate in candidates}
    known = {key: speeds for key, speeds in learned.items() if speeds is not None}
    loads = _load_seconds(candidates, known)
    load = PreviewLoad(known, state.waiting_interactive().number, settings.ROUTERDASH.spill_after_secs, loads)
    demand = _demand(question, candidates, known)
    return with_last_resort(candidates, lambda some: adaptive_payload(model, kind, some, load, demand))


def _load_seconds(candidates: Sequence[PreviewCandidate], speeds: Mapping[str, Speeds]) -> dict[str, float]:
    """Return the seconds until each endpoint has loaded the model, by what its engine last reported.

    A gateway also knows what it has sent there since.
    """
    engines = {candidate.id: runtime.installation.engine_state(candidate.id) for candidate in candidates}
    models = LoadedModels(lambda: None)
    models.note(engines, engines)
    return {
        candidate.id: models.load_seconds(
            candidate.id, engines[candidate.id], candidate.model.id, speeds.get(candidate.id, NOT_MEASURED).load
        )
        for candidate in candidates
    }


def _demand(question: RouteQuestion, candidates: Sequence[PreviewCandidate], speeds: Mapping[str, Speeds]) -> Demand:
    state, sample, kind = runtime.installation, question.sample, question.kind
    shares = {candidate.id: speeds.get(candidate.id, NOT_MEASURED).kept for candidate in candidates}
    if sample is not None:
        generates, typical = kind in GENERATING, state.lengths(question.model, None).output
        lengths = state.lengths(question.model, sample.key_id)
        demand = sample_demand(sample, lengths, typical, generates=generates)
        capable = [candidate for candidate in candidates if candidate.capable]
        rows = rows_of(capable, [speeds.get(candidate.id, NOT_MEASURED) for candidate in capable], NEVER)
        matters = sample.has_session or slowest_read(rows) * sample.body_bytes >= NEGLIGIBLE_READ
        kept_by_id = kept_at(state.affinity(), sample, candidates) if generates and matters else {}
        return demand._replace(kept=kept_tokens(kept_by_id, shares, demand.prompt, sample.body_bytes))
    if question.conversation is None:
        lengths = state.lengths(question.model, None)
        return demand_of(kind, lengths, question.prompt_tokens, question.output_tokens)
    read = _read_by(question.conversation)
    prompt = question.prompt_tokens or max(read.values(), default=0) or None
    lengths = state.lengths(question.model, question.conversation.payload["api_key_id"])
    demand = demand_of(kind, lengths, prompt, question.output_tokens)
    kept = {name: min(demand.prompt, tokens) * shares[name][0] for name, tokens in read.items() if name in shares}
    return demand._replace(kept=kept)


def _read_by(conversation: Conversation) -> dict[str, int]:
    """Return the tokens that each endpoint had of a conversation after the last request there, by the endpoint's id."""
    return {
        turn["endpoint_id"]: (turn["input_tokens"] or 0) + (turn["output_tokens"] or 0)
        for turn in conversation.turns
        if turn["endpoint_id"] is not None
    }
