"""What models can do, in the words of gateway.kinds: as staff and servers say it, or guessed by the model's name."""

import re
from collections.abc import Iterable

from gateway.kinds import (
    CAN_CHAT,
    CAN_DRAW,
    CAN_EMBED,
    CAN_MODERATE,
    CAN_RERANK,
    CAN_SPEAK,
    CAN_TRANSCRIBE,
    CAPABILITIES,
)

CHAT_COMPLETION = "chat_completion"  # what the endpoints table calls chatting
DEFAULT = [CHAT_COMPLETION]  # what the table has where nobody said anything
STORED = tuple(CHAT_COMPLETION if word == CAN_CHAT else word for word in CAPABILITIES)

# What else servers say. Others of their words (vision, tools, thinking, …) make no difference to routing.
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
    """The capabilities among these words, each once, in one order; of anything but a list: none."""
    if not isinstance(words, list | tuple):
        return ()
    found = {_WORDS.get(word) for word in words if isinstance(word, str)}
    return tuple(word for word in CAPABILITIES if word in found)


def to_store(words: Iterable[str]) -> list[str]:
    """As the endpoints table has them."""
    return list(dict.fromkeys(CHAT_COMPLETION if word == CAN_CHAT else word for word in words))


def added(words: object) -> tuple[str, ...]:
    """What staff say that all models of an endpoint can do beside what is known of each. The default adds nothing."""
    return () if words == DEFAULT else normalise(words)


def together(known: Iterable[str], more: Iterable[str]) -> tuple[str, ...]:
    """A model's own capabilities and those that staff added; if its own are unknown, they stay so."""
    own = normalise(list(known))
    return normalise([*own, *more]) if own else ()


# Words of names, whole ones, and beginnings of words. The first line that matches is what the model can do.
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
    """By the name's last part, where the server does not tell: most models that are no chat models are called so."""
    name = re.sub(r"[\W_]+", " ", model_id.rsplit("/", 1)[-1].casefold())
    return next((can for pattern, can in _PATTERNS if pattern.search(name)), (CAN_CHAT,))
