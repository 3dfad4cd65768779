"""Model aliases: a Hugging Face repository as canonical name, and each engine's own name of the same weights.

Matching ignores case. A client may request any alias. The endpoint gets its own name, and the response contains the
requested one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from endpoints.models import Kind
from gateway.registry import schema


@dataclass(frozen=True, slots=True)
class Family:
    """One canonical name and its aliases by type of endpoint. Any other engine uses the canonical name."""

    canonical: str
    ollama: tuple[str, ...] = ()
    lm_studio: tuple[str, ...] = ()
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        names = (self.canonical, *self.ollama, *self.lm_studio)
        object.__setattr__(self, "names", frozenset(name.casefold() for name in names))

    def names_for(self, kind: str) -> frozenset[str]:
        """Return the names, in lower case, under which an endpoint of this type may offer the model."""
        own: dict[str, tuple[str, ...]] = {Kind.OLLAMA: self.ollama, Kind.LM_STUDIO: self.lm_studio}
        return frozenset(name.casefold() for name in (self.canonical, *own.get(kind, ())))


FAMILIES = (
    Family("openai/gpt-oss-20b", ("gpt-oss:20b", "gpt-oss:latest"), ("openai/gpt-oss-20b",)),
    Family("openai/gpt-oss-120b", ("gpt-oss:120b",), ("openai/gpt-oss-120b",)),
    Family("Qwen/Qwen3-Coder-30B-A3B-Instruct", ("qwen3-coder:30b", "qwen3-coder:latest"), ("qwen/qwen3-coder-30b",)),
    Family("Qwen/Qwen3-30B-A3B", ("qwen3:30b", "qwen3:30b-a3b"), ("qwen/qwen3-30b-a3b",)),
    Family("Qwen/Qwen3-Coder-Next", ("qwen3-coder-next", "qwen3-coder-next:latest"), ("qwen/qwen3-coder-next",)),
    Family("meta-llama/Llama-3.3-70B-Instruct", ("llama3.3:70b", "llama3.3:latest"), ("meta/llama-3.3-70b",)),
    Family("google/gemma-3-27b-it", ("gemma3:27b",), ("google/gemma-3-27b",)),
    Family("Qwen/Qwen3.5-35B-A3B", ("qwen3.5:35b",), ("qwen/qwen3.5-35b-a3b",)),
    Family("nvidia/nemotron-3-super-120b-a12b", ("nemotron-3-super",), ("nvidia/nemotron-3-super",)),
    Family("nvidia/Nemotron-3-Nano", ("nemotron-3-nano",), ("nvidia/nemotron-3-nano",)),
    Family("Qwen/Qwen2.5-14B-Instruct-AWQ", ("qwen2.5:14b",), ("qwen2.5-14b-instruct",)),
    Family(
        "nomic-ai/nomic-embed-text-v1.5",
        ("nomic-embed-text", "nomic-embed-text:latest", "nomic-embed-text:v1.5"),
        ("text-embedding-nomic-embed-text-v1.5",),
    ),
    Family("THUDM/glm-4.7-flash", ("glm-4.7-flash",), ("zai-org/glm-4.7-flash",)),
)

_BY_NAME = {name: family for family in FAMILIES for name in family.names}


def family(name: str | None) -> Family | None:
    return _BY_NAME.get(name.casefold()) if name else None


def canonical_name(model_id: str, kind: str) -> str | None:
    """Return the canonical name of an endpoint's `model_id`; None if the table has none for this type."""
    model_family = family(model_id)
    if model_family is None or model_id.casefold() not in model_family.names_for(kind):
        return None
    return model_family.canonical


def aliases(model_id: str, canonical: str | None) -> tuple[str, ...]:
    """Return all other names under which this model may be requested, sorted."""
    names: set[str] = {canonical} if canonical else set()
    for model_family in (family(model_id), family(canonical)):
        if model_family is not None:
            names |= {model_family.canonical, *model_family.ollama, *model_family.lm_studio}
    return tuple(sorted(names - {model_id}))


class _Model(Protocol):
    """A model of an endpoint."""

    @property
    def id(self) -> str: ...
    @property
    def canonical_name(self) -> str | None: ...


def by_name(models: Iterable[_Model]) -> tuple[dict[str, schema.Model], dict[str, schema.Model]]:
    """Return an endpoint's models by exact and by casefolded name, as gateways find them (gateway.registry.schema)."""
    return schema.names(
        schema.Model(model.id, model.canonical_name, aliases(model.id, model.canonical_name)) for model in models
    )
