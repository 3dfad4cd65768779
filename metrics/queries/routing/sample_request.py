"""A request as a client would send it, for the routing preview: read by the same code as in a gateway."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.base.types import Body
from gateway.dialects.openai_requests import (
    Request,
    reading_request,
)
from gateway.dialects.prompt_fields import PromptFields
from gateway.loop.time_slices import run_unsliced
from gateway.registry.schema import Lengths
from gateway.routing.adaptive import UNKNOWN_BYTES_PER_TOKEN, UNKNOWN_OUTPUT
from gateway.routing.affinity.affinity import Affinity, Kept
from gateway.routing.affinity.prompts import session_in
from gateway.routing.expected_time import Demand
from metrics.queries.routing.routing_preview import PreviewCandidate


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """The fields of a request that decide about routing."""

    parsed: Request
    fields: PromptFields  # share the memory of the body
    body_bytes: int
    session: bytes | None  # the id in a header
    key_id: str | None  # of the API key that would send it

    @property
    def has_session(self) -> bool:
        """True if the client names its session, in a header or in the body."""
        return self.session is not None or bool(self.fields.prompt_cache_key)


@dataclass(slots=True)
class _Fleet:
    """The protocol in which prefix affinity gets candidates."""

    endpoints: Sequence[PreviewCandidate]
    has_prints: bool = False

    @property
    def by_id(self) -> dict[str, PreviewCandidate]:
        return {endpoint.id: endpoint for endpoint in self.endpoints}


def read_sample(body: Body, headers: Mapping[bytes, bytes], key_id: str | None) -> SampleRequest:
    """Read a body of any size. `headers`: names in lower case. Raises Refusal, which names the wrong field."""
    parsed, fields, _ = run_unsliced(reading_request(body))
    return SampleRequest(parsed, fields, len(body), session_in(headers), key_id)


def kept_at(
    affinity: Affinity | None, sample: SampleRequest, candidates: Sequence[PreviewCandidate]
) -> dict[str, Kept]:
    """Return the part of the prompt that each endpoint should have in its prefix cache, by the endpoint's id.

    Gateways do not note where prompts were sent if there is no choice.
    """
    if affinity is None or len(candidates) <= 1:
        return {}
    model = sample.parsed.model
    prefix = affinity.read(sample.fields, sample.session, sample.key_id, model, sample.body_bytes)
    if prefix is None or not prefix.has_marks:
        return {}
    return affinity.find(prefix, _Fleet([candidate for candidate in candidates if candidate.capable]))


def sample_demand(sample: SampleRequest, lengths: Lengths, typical: float | None, *, generates: bool) -> Demand:
    """Return what a gateway expects of the request (gateway.inference.choosing.demand_of), without kept prefixes.

    `lengths` of its API key, `typical` output tokens of all keys.
    """
    output = UNKNOWN_OUTPUT if lengths.output is None else lengths.output
    mean = output if typical is None else typical
    most = sample.parsed.max_tokens
    if not generates:
        output = mean = 0.0
    elif most is not None:
        output = min(output, most)
    prompt = int(sample.body_bytes / (lengths.bytes_per_token or UNKNOWN_BYTES_PER_TOKEN)) or 1
    return Demand(prompt, output, typical=mean)


def kept_tokens(
    kept: Mapping[str, Kept], shares: Mapping[str, Sequence[float]], prompt: float, body_bytes: int
) -> dict[str, float]:
    """Return the prompt tokens that each endpoint is expected to have in its prefix cache, by the endpoint's id.

    `shares`: of a prefix that an endpoint should have, the part that was cached of earlier ones of each age.
    """
    return {
        name: min(prompt, kept_prefix.size * prompt / (body_bytes or 1)) * shares[name][kept_prefix.age]
        for name, kept_prefix in kept.items()
        if name in shares
    }
