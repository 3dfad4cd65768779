"""Labels of stored words on pages and in the admin: outcomes, reasons, phases."""

from django.utils.translation import gettext_lazy

from gateway.base import request_kinds
from gateway.base.queue_class import BULK, INTERACTIVE
from gateway.ipc import record
from gateway.routing import adaptive, balancer
from metrics.learning import learned_models
from metrics.queries.requests import explanation
from metrics.queries.routing import routing_preview

OUTCOMES = {
    record.OK: gettext_lazy("OK"),
    record.REFUSED: gettext_lazy("Rejected by the endpoint"),
    record.FAILED: gettext_lazy("Failed"),
    record.TRUNCATED: gettext_lazy("Broken off"),
    record.CANCELLED: gettext_lazy("Cancelled"),
    record.NO_ENDPOINT: gettext_lazy("No endpoint"),
    record.QUEUE: gettext_lazy("Queue timeout"),
}
QUEUE_CLASSES = {
    INTERACTIVE: gettext_lazy("Interactive"),
    BULK: gettext_lazy("Bulk"),
}
# Why an endpoint was chosen.
REASONS = {
    balancer.ONLY: gettext_lazy("No other endpoint was available."),
    balancer.LEAST: gettext_lazy("This endpoint had the fewest running requests."),
    balancer.DRAWN: gettext_lazy("This endpoint was picked at random from those with the fewest running requests."),
    balancer.TRIAL: gettext_lazy(
        "All circuit breakers were open, and this endpoint was due first for a recovery check."
    ),
    balancer.CREATOR: gettext_lazy("This endpoint created the response that the request refers to."),
    balancer.PINNED: gettext_lazy("The playground selected this endpoint."),
    balancer.SEARCHED: gettext_lazy("The endpoint that created this response is unknown, so all were queried."),
    balancer.SPILLED: gettext_lazy(
        "The request spilled to this tier: all endpoints of better tiers were full or unavailable."
    ),
    adaptive.FASTEST: gettext_lazy("This endpoint had the lowest cost."),
    adaptive.KEPT_PREFIX: gettext_lazy(
        "This endpoint had the lowest cost, and the beginning of the prompt was expected in its prefix cache."
    ),
    adaptive.LOADED: gettext_lazy("This endpoint had the lowest cost, because the model was loaded there."),
    adaptive.PROBE: gettext_lazy("This endpoint has few responses yet, so the request also measured its speed."),
    adaptive.WAITED: gettext_lazy("The request waited in the queue, and then this endpoint had the lowest cost."),
}
# Where a request would go now, and why endpoints are left out.
ROUTES = {
    balancer.ONLY: gettext_lazy("The request goes to the only candidate."),
    balancer.LEAST: gettext_lazy("The request goes to the endpoint with the fewest running requests."),
    balancer.DRAWN: gettext_lazy(
        "The request goes to one of the endpoints with the fewest running requests, picked at random."
    ),
    balancer.TRIAL: gettext_lazy(
        "All circuit breakers are open. The request goes to the endpoint that is due first for a recovery check."
    ),
    balancer.SPILLED: gettext_lazy(
        "The request spills to a worse tier, because all endpoints of better tiers are full or unavailable."
    ),
    routing_preview.WAIT: gettext_lazy(
        "The request waits in the queue, because every endpoint is at its concurrency limit."
    ),
    adaptive.FASTEST: gettext_lazy("The request goes to the endpoint with the lowest cost."),
    adaptive.KEPT_PREFIX: gettext_lazy(
        "The request goes to the endpoint with the lowest cost. The beginning of the prompt is expected in its prefix "
        "cache."
    ),
    adaptive.PROBE: gettext_lazy(
        "The request goes to the endpoint with the lowest cost. It has few responses yet, so its speed is measured."
    ),
    routing_preview.WAIT_FOR_FASTER: gettext_lazy(
        "The request waits in the queue for a busy endpoint: that is expected to be faster than a free one."
    ),
}
EXCLUDED = {
    routing_preview.DISABLED: gettext_lazy("disabled"),
    routing_preview.DRAINING: gettext_lazy("draining"),
    routing_preview.OFFLINE: gettext_lazy("offline"),
    routing_preview.PAUSED: gettext_lazy("paused"),
    routing_preview.INCAPABLE: gettext_lazy("request kind not supported"),
    routing_preview.LACKING: gettext_lazy("lacks the path"),
    routing_preview.IS_FULL: gettext_lazy("full"),
    routing_preview.SPILLING: gettext_lazy("expected wait too long"),
    routing_preview.BREAKER_OPEN: gettext_lazy("circuit breaker open"),
    routing_preview.LESS_HEALTHY: gettext_lazy("less healthy than others"),
    routing_preview.WORSE_TIER: gettext_lazy("worse tier"),
    routing_preview.MEASURING: gettext_lazy("few responses yet, and enough requests in flight"),
}
# Phases of a queued or running request.
PHASES = {
    "queue": gettext_lazy("In the queue"),
    "first_token": gettext_lazy("Waiting for the first token"),
    "stream": gettext_lazy("Streaming"),
    "answer": gettext_lazy("Generating the response"),
}
# How sure adaptive routing is of what it has learned.
CONFIDENCES = {
    learned_models.FEW: gettext_lazy("few responses: still being measured"),
    learned_models.SOME: gettext_lazy("some responses: roughly known"),
    learned_models.MANY: gettext_lazy("many responses: well known"),
}
# Parts of a request's time.
PARTS = {
    explanation.QUEUE: gettext_lazy("Queue"),
    explanation.EARLIER: gettext_lazy("Earlier attempts"),
    explanation.CONNECT: gettext_lazy("Connect: opening a connection"),
    explanation.PREFILL: gettext_lazy("Prefill: reading the prompt, until the first token"),
    explanation.DECODE: gettext_lazy("Decode: generating the rest"),
    explanation.STALLS: gettext_lazy("Stalls: waiting while the endpoint read other prompts"),
    explanation.RESPONSE: gettext_lazy("Response"),
}

# Parts of a cost: see gateway.prices.evaluation.
COST_PARTS = {
    "input": gettext_lazy("Other input tokens"),
    "cached": gettext_lazy("Cached input tokens"),
    "write_short": gettext_lazy("Tokens written to a cache"),
    "write_long": gettext_lazy("Tokens written to a cache for long"),
    "output": gettext_lazy("Other output tokens"),
    "reasoning": gettext_lazy("Reasoning tokens"),
    "request": gettext_lazy("Request"),
    "image": gettext_lazy("Images"),
    "minute": gettext_lazy("Milliseconds of audio"),
}
# Kinds of requests, by the API that they use.
APIS = {
    request_kinds.CHAT: gettext_lazy("Chat completions"),
    request_kinds.COMPLETIONS: gettext_lazy("Completions"),
    request_kinds.EMBEDDINGS: gettext_lazy("Embeddings"),
    request_kinds.RESPONSES: gettext_lazy("Responses"),
    request_kinds.COMPACTIONS: gettext_lazy("Response compaction"),
    request_kinds.STORED: gettext_lazy("Stored responses"),
    request_kinds.MESSAGES: gettext_lazy("Messages"),
    request_kinds.COUNT_TOKENS: gettext_lazy("Token counting"),
    request_kinds.TRANSCRIPTIONS: gettext_lazy("Speech transcription"),
    request_kinds.TRANSLATIONS: gettext_lazy("Speech translation"),
    request_kinds.SPEECH: gettext_lazy("Speech synthesis"),
    request_kinds.IMAGES: gettext_lazy("Image generation"),
    request_kinds.IMAGE_EDITS: gettext_lazy("Image editing"),
    request_kinds.IMAGE_VARIATIONS: gettext_lazy("Image variations"),
    request_kinds.RERANK: gettext_lazy("Reranking"),
    request_kinds.MODERATIONS: gettext_lazy("Moderation"),
    request_kinds.TOKENIZE: gettext_lazy("Tokenization"),
    request_kinds.OLLAMA_CHAT: gettext_lazy("Chat (Ollama)"),
    request_kinds.OLLAMA_GENERATE: gettext_lazy("Generate (Ollama)"),
    request_kinds.OLLAMA_EMBED: gettext_lazy("Embeddings (Ollama)"),
    request_kinds.OLLAMA_SHOW: gettext_lazy("Details of a model (Ollama)"),
}


# Why a request left a step of a model name, or skipped it.
STEP_REASONS = {
    "unavailable": gettext_lazy("no endpoint was available"),
    "full": gettext_lazy("all its endpoints were full"),
    "failed": gettext_lazy("the attempt failed"),
    "too_long": gettext_lazy("the prompt was longer than the model's context"),
    "external": gettext_lazy("it leads to external endpoints only, which the API key may not use"),
    "not_capable": gettext_lazy("its models cannot be used for this kind of request"),
    "no_tools": gettext_lazy("its models cannot call tools"),
    "no_vision": gettext_lazy("its models cannot read images"),
    "not_allowed": gettext_lazy("the API key may not use its models or endpoints"),
    "other_vectors": gettext_lazy("embeddings of its models cannot be compared with those of the first one"),
    "stored_elsewhere": gettext_lazy("an endpoint of a later step stores the previous response"),
    "pinned": gettext_lazy("the playground requested another endpoint"),
}

# Why a response ended.
FINISH_REASONS = {
    "stop": gettext_lazy("complete"),
    "length": gettext_lazy("maximum length reached"),
    "tool_calls": gettext_lazy("tool calls"),
    "content_filter": gettext_lazy("content filter"),
    "error": gettext_lazy("error of the server"),
}


def step_reason(name: str) -> str:
    return str(STEP_REASONS.get(name, name))


def finish_reason(name: str | None) -> str:
    return "—" if name is None else str(FINISH_REASONS.get(name, name))


def api(name: str) -> str:
    """Return the name of an API for people; the word itself if it is unknown."""
    return str(APIS.get(name, name))


def outcome(name: str) -> str:
    """Return the label of an outcome; an unknown word, of a newer release, stays as it is."""
    return str(OUTCOMES.get(name, name))


def reason(name: str) -> str:
    return str(REASONS.get(name, name))


def route(name: str) -> str:
    return str(ROUTES.get(name, name))


def phase(name: str) -> str:
    return str(PHASES.get(name, name))


def queue_class(name: str) -> str:
    return str(QUEUE_CLASSES.get(name, name))


def confidence(name: str) -> str:
    return str(CONFIDENCES[name])


def part(name: str) -> str:
    return str(PARTS[name])


def cost_part(name: str) -> str:
    return str(COST_PARTS.get(name, name))


def excluded(name: str) -> str:
    return str(EXCLUDED.get(name, name))
