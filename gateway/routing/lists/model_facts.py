"""Facts about a model that model lists state for clients: its limits, modalities and features, as far as known.

Clients read the same fact under different names. `context_length` is OpenRouter's, `max_model_len` vLLM's. The most
output tokens are `max_output_tokens`, at Groq and in Cline `max_completion_tokens`, in the lists of OpenRouter's
providers, which OpenCode reads, `max_output_length`, and in OpenRouter's own list `top_provider.max_completion_tokens`.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, TypedDict

from gateway.base.request_kinds import (
    CAN_CHAT,
    CAN_DRAW,
    CAN_EMBED,
    CAN_MODERATE,
    CAN_RERANK,
    CAN_SPEAK,
    CAN_TRANSCRIBE,
    THINKING,
    TOOLS,
    VISION,
)

TEXT, IMAGE, AUDIO, VECTORS = "text", "image", "audio", "embeddings"
# Input and output of models with a capability. Rankings and verdicts are neither.
_MODALITIES: dict[str, tuple[str, str | None]] = {
    CAN_CHAT: (TEXT, TEXT),
    CAN_EMBED: (TEXT, VECTORS),
    CAN_TRANSCRIBE: (AUDIO, TEXT),
    CAN_SPEAK: (TEXT, AUDIO),
    CAN_DRAW: (TEXT, IMAGE),
    CAN_RERANK: (TEXT, None),
    CAN_MODERATE: (TEXT, None),
}


class ReportedModel(Protocol):
    """A model at one endpoint, as gateways and control know it."""

    @property
    def max_tokens(self) -> int | None: ...
    @property
    def max_output_tokens(self) -> int | None: ...
    @property
    def lacks(self) -> Sequence[str]: ...
    @property
    def features(self) -> Sequence[str]: ...


class ModelFacts(NamedTuple):
    """Facts of a model over its endpoints. None: unknown."""

    context: int | None  # tokens, the least of the endpoints
    output: int | None  # most output tokens, the least of the endpoints
    tools: bool | None
    vision: bool | None
    thinking: bool | None


class ArchitectureFields(TypedDict, total=False):
    input_modalities: list[str]
    output_modalities: list[str]


class TopProviderFields(TypedDict, total=False):
    context_length: int
    max_completion_tokens: int


class FactFields(TypedDict, total=False):
    """Fields of a model in a list. One whose value is unknown is absent."""

    context_length: int
    max_model_len: int
    max_output_tokens: int
    max_completion_tokens: int
    max_output_length: int
    top_provider: TopProviderFields
    input_modalities: list[str]
    output_modalities: list[str]
    architecture: ArchitectureFields
    supported_features: list[str]  # with tools, reasoning and vision; absent unless it is known whether it has tools


def facts_of(models: Iterable[ReportedModel]) -> ModelFacts:
    """Return the facts of a model from the reports of its endpoints.

    It has a feature if one of them reports it: requests that need it go there.
    """
    models = tuple(models)
    return ModelFacts(
        min((model.max_tokens for model in models if model.max_tokens), default=None),
        min((model.max_output_tokens for model in models if model.max_output_tokens), default=None),
        *(_has(word, models) for word in (TOOLS, VISION, THINKING)),
    )


def _has(word: str, models: Sequence[ReportedModel]) -> bool | None:
    if any(word in model.features for model in models):
        return True
    return False if models and all(word in model.lacks for model in models) else None


def fact_fields(facts: ModelFacts, capabilities: Iterable[str]) -> FactFields:
    """Return the fields of a model with these capabilities."""
    fields: FactFields = {}
    top: TopProviderFields = {}
    if facts.context is not None:
        fields["context_length"] = fields["max_model_len"] = top["context_length"] = facts.context
    if facts.output is not None:
        fields["max_output_tokens"] = fields["max_completion_tokens"] = fields["max_output_length"] = facts.output
        top["max_completion_tokens"] = facts.output
    if top:
        fields["top_provider"] = top
    reads, writes = _modalities(facts, capabilities)
    architecture: ArchitectureFields = {}
    if reads is not None:
        fields["input_modalities"] = architecture["input_modalities"] = reads
    if writes:
        fields["output_modalities"] = architecture["output_modalities"] = writes
    if architecture:
        fields["architecture"] = architecture
    if facts.tools is not None:
        has = (("tools", facts.tools), ("reasoning", facts.thinking), ("vision", facts.vision))
        fields["supported_features"] = [word for word, is_known in has if is_known]
    return fields


def _modalities(facts: ModelFacts, capabilities: Iterable[str]) -> tuple[list[str] | None, list[str]]:
    """Return the inputs of a model, None if it is open whether it reads images, and its outputs."""
    known = [(word, _MODALITIES[word]) for word in capabilities if word in _MODALITIES]
    reads = list(dict.fromkeys(source for _, (source, _) in known))
    writes = list(dict.fromkeys(result for _, (_, result) in known if result is not None))
    if facts.vision:
        reads = list(dict.fromkeys((*reads, IMAGE)))
    is_open = not reads or (facts.vision is None and any(word == CAN_CHAT for word, _ in known))
    return None if is_open else reads, writes
