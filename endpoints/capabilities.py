"""Capabilities of models (gateway.base.request_kinds): set by administrators, reported, or guessed by name."""

import re
from collections.abc import Iterable, Mapping, Sequence

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy

from gateway.base.request_kinds import (
    CAN_CHAT,
    CAN_DRAW,
    CAN_EMBED,
    CAN_MODERATE,
    CAN_RERANK,
    CAN_SPEAK,
    CAN_TRANSCRIBE,
    CAPABILITIES,
    THINKING,
    TOOLS,
    VISION,
)

CHAT_COMPLETION = "chat_completion"  # the endpoints table's word for chat
DEFAULT = [CHAT_COMPLETION]  # the table's value if administrators set nothing
LABELS: Mapping[str, str | Promise] = {
    CAN_CHAT: gettext_lazy("Chat"),
    CHAT_COMPLETION: gettext_lazy("Chat"),
    CAN_EMBED: gettext_lazy("Embeddings"),
    CAN_TRANSCRIBE: gettext_lazy("Speech transcription"),
    CAN_SPEAK: gettext_lazy("Speech synthesis"),
    CAN_DRAW: gettext_lazy("Image generation"),
    CAN_RERANK: gettext_lazy("Reranking"),
    CAN_MODERATE: gettext_lazy("Moderation"),
}
STORED = tuple(CHAT_COMPLETION if word == CAN_CHAT else word for word in CAPABILITIES)

# Other words that servers report. Those of features are below.
_WORDS = {word: word for word in CAPABILITIES} | {
    CHAT_COMPLETION: CAN_CHAT,
    "completion": CAN_CHAT,
    "llm": CAN_CHAT,
    "vlm": CAN_CHAT,
    "embedding": CAN_EMBED,
    "reranking": CAN_RERANK,
    "image": CAN_DRAW,
}


def normalise(words: object) -> tuple[str, ...]:
    """Return the capabilities among these words without duplicates, in a fixed order; none if `words` is no list."""
    return _known(words, _WORDS, CAPABILITIES)


# What a request may need of a model beside a capability. Models of which nothing is reported may have them.
NEEDS = (TOOLS, VISION)
FEATURES = (*NEEDS, THINKING)
_FEATURE_WORDS = {word: word for word in FEATURES} | {
    "tool_use": TOOLS,
    "trained_for_tool_use": TOOLS,
    "function_calling": TOOLS,
    "image_input": VISION,
    "vlm": VISION,
    "reasoning": THINKING,
}


def features(words: object) -> tuple[str, ...]:
    """Return the features among these words, in a fixed order; none if `words` is no list."""
    return _known(words, _FEATURE_WORDS, FEATURES)


def _known(words: object, meanings: Mapping[str, str], order: Sequence[str]) -> tuple[str, ...]:
    """Return what these words mean, each once and in this order; none if `words` is no list."""
    if not isinstance(words, list | tuple):
        return ()
    meant = {meanings.get(word) for word in words if isinstance(word, str)}
    return tuple(word for word in order if word in meant)


def label(word: str) -> str:
    """Return the name of a capability for people; the word itself if it is unknown."""
    return str(LABELS.get(word, word))


def to_store(words: Iterable[str]) -> list[str]:
    """Return the capabilities in the words of the endpoints table."""
    return list(dict.fromkeys(CHAT_COMPLETION if word == CAN_CHAT else word for word in words))


def added(words: object) -> tuple[str, ...]:
    """Return the capabilities that administrators added to all models of an endpoint. The default adds nothing."""
    return () if words == DEFAULT else normalise(words)


def combined(detected: Iterable[str], added_by_administrators: Iterable[str]) -> tuple[str, ...]:
    """Return a model's own capabilities and those that administrators added; none if its own are unknown."""
    own = normalise(list(detected))
    return normalise([*own, *added_by_administrators]) if own else ()


# Patterns of whole words in model names. The first match determines the model's capabilities.
_GUESSES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"rerank\w*|reranker|marco", (CAN_RERANK,)),
    (r"embed\w*|bge|gte|e5|minilm|mpnet|labse|\w*sbert", (CAN_EMBED,)),
    (r"voxtral", (CAN_CHAT, CAN_TRANSCRIBE)),
    (r"whisper\w*|parakeet|canary|transcribe|asr|moonshine|wav2vec2?", (CAN_TRANSCRIBE,)),
    (r"\w*tts|kokoro|piper|speech|speecht5|bark", (CAN_SPEAK,)),
    (r"stable diffusion|sdxl|sd3|flux\d?|dall e|dalle|(gpt|qwen|z|grok \d) image|hunyuanimage|imagen", (CAN_DRAW,)),
    (r"moderation", (CAN_MODERATE,)),
)
_PATTERNS = tuple((re.compile(rf"\b(?:{words})\b"), can) for words, can in _GUESSES)


def guess(model_id: str) -> tuple[str, ...]:
    """Return capabilities guessed from the last part of the name, which usually shows that a model is no chat model."""
    name = re.sub(r"[\W_]+", " ", model_id.rsplit("/", 1)[-1].casefold())
    return next((can for pattern, can in _PATTERNS if pattern.search(name)), (CAN_CHAT,))
