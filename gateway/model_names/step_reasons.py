"""Why a step of a model name was left or skipped, as records and the JSON API name it."""

from gateway.base.request_kinds import TOOLS, VISION

UNAVAILABLE = "unavailable"  # no endpoint could be asked: offline, draining, disabled, or its circuit breaker was open
FULL = "full"  # all endpoints were full for as long as the step allows
FAILED = "failed"  # an attempt failed in a way that another endpoint may not
TOO_LONG = "too_long"  # the prompt is longer than the context of the models
NOT_CAPABLE = "not_capable"  # the models cannot be used for this kind of request
NO_TOOLS = "no_tools"  # the request has tools, and the models cannot call any
NO_VISION = "no_vision"  # the request has images, and the models cannot read them
EXTERNAL = "external"  # the endpoints are external, and the API key or the model name does not allow that
NOT_ALLOWED = "not_allowed"  # the API key may not use the model or the endpoints
OTHER_VECTORS = "other_vectors"  # embeddings of another model cannot be compared with those of the first
STORED_ELSEWHERE = "stored_elsewhere"  # an endpoint of a later step stores the previous response
PINNED = "pinned"  # the playground requested an endpoint of another step

# Those for which a step has a condition; the others skip a step always.
CONDITIONS = (UNAVAILABLE, FULL, FAILED, TOO_LONG)
LACKING = {TOOLS: NO_TOOLS, VISION: NO_VISION}
# Before anything is sent
SKIPPED = (UNAVAILABLE, FULL, TOO_LONG, NOT_CAPABLE, *LACKING.values(), EXTERNAL, NOT_ALLOWED, OTHER_VECTORS)
REASONS = (*CONDITIONS, NOT_CAPABLE, *LACKING.values(), EXTERNAL, NOT_ALLOWED, OTHER_VECTORS, STORED_ELSEWHERE, PINNED)
