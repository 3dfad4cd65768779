"""Kinds of requests: where each is sent, which capability its model needs, and how it is counted."""

from dataclasses import dataclass, field

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = "chat_completions", "completions", "embeddings", "responses"
COMPACTIONS = "response_compactions"  # a conversation in fewer tokens
STORED = "stored_responses"  # looked up, cancelled, deleted
MESSAGES, COUNT_TOKENS = "messages", "count_tokens"  # Anthropic's
TRANSCRIPTIONS, TRANSLATIONS, SPEECH = "audio_transcriptions", "audio_translations", "audio_speech"
IMAGES, IMAGE_EDITS, IMAGE_VARIATIONS = "image_generations", "image_edits", "image_variations"
RERANK, MODERATIONS, TOKENIZE = "rerank", "moderations", "tokenize"
OLLAMA_CHAT, OLLAMA_GENERATE, OLLAMA_EMBED = "ollama_chat", "ollama_generate", "ollama_embed"  # Ollama's own API
OLLAMA_SHOW = "ollama_show"  # what is known about a model

# Capabilities of models, named as in the endpoints' table if it has them.
CAN_CHAT, CAN_EMBED = "chat", "embeddings"
TOOLS, VISION = "tools", "vision"  # what a request may need of a model for chat besides
THINKING = "thinking"
CAN_TRANSCRIBE, CAN_SPEAK, CAN_DRAW = "audio_transcription", "audio_speech", "image_generation"
CAN_RERANK, CAN_MODERATE = "rerank", "moderation"
CAPABILITIES = (CAN_CHAT, CAN_EMBED, CAN_TRANSCRIBE, CAN_SPEAK, CAN_DRAW, CAN_RERANK, CAN_MODERATE)

_OF_TEXT = frozenset((CAN_CHAT, CAN_EMBED, CAN_RERANK, CAN_MODERATE))


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request: one path below /v1, or below /ollama."""

    name: str  # in records
    path: str  # for clients and endpoints
    capability: str
    upstream_path: bytes = b""  # if it differs at the endpoint
    query: frozenset[bytes] = frozenset()  # names of the query parameters that endpoints receive
    binary: bool = False  # responds with sound or images
    multipart: bool = False  # a form with files instead of JSON
    generates: bool = False  # text, whose tokens per second are a speed
    anthropic: bool = False  # its clients use Anthropic's API, otherwise OpenAI's or Ollama's
    needs_slot: bool = True  # False: it generates nothing, so that it neither waits for a slot nor takes one
    target: bytes = field(init=False)  # the path on the endpoint

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", self.upstream_path or self.path.encode())

    @property
    def reads_text(self) -> bool:
        """True if the tokens of its prompt are about proportional to the size of its body."""
        return self.needs_slot and self.capability in _OF_TEXT

    @property
    def endpoint_path(self) -> str:
        """Path at the endpoint."""
        return self.target.decode()


_BETA = frozenset((b"beta",))  # Anthropic's clients request new features with it

KINDS = (
    Kind(CHAT, "/v1/chat/completions", CAN_CHAT, generates=True),
    Kind(COMPLETIONS, "/v1/completions", CAN_CHAT, generates=True),
    Kind(EMBEDDINGS, "/v1/embeddings", CAN_EMBED),
    Kind(RESPONSES, "/v1/responses", CAN_CHAT, generates=True),
    Kind(COMPACTIONS, "/v1/responses/compact", CAN_CHAT),
    Kind(MESSAGES, "/v1/messages", CAN_CHAT, generates=True, query=_BETA, anthropic=True),
    Kind(COUNT_TOKENS, "/v1/messages/count_tokens", CAN_CHAT, query=_BETA, needs_slot=False, anthropic=True),
    Kind(TRANSCRIPTIONS, "/v1/audio/transcriptions", CAN_TRANSCRIBE, multipart=True),
    Kind(TRANSLATIONS, "/v1/audio/translations", CAN_TRANSCRIBE, multipart=True),
    Kind(SPEECH, "/v1/audio/speech", CAN_SPEAK, binary=True),
    Kind(IMAGES, "/v1/images/generations", CAN_DRAW),
    Kind(IMAGE_EDITS, "/v1/images/edits", CAN_DRAW, multipart=True),
    Kind(IMAGE_VARIATIONS, "/v1/images/variations", CAN_DRAW, multipart=True),
    Kind(RERANK, "/v1/rerank", CAN_RERANK),
    Kind(MODERATIONS, "/v1/moderations", CAN_MODERATE),
    Kind(TOKENIZE, "/v1/tokenize", CAN_CHAT, upstream_path=b"/tokenize", needs_slot=False),
)
# Ollama's own API. On the port of its own (ROUTERDASH_OLLAMA_PORT) the paths begin with /api.
OLLAMA_KINDS = (
    Kind(OLLAMA_CHAT, "/ollama/api/chat", CAN_CHAT, upstream_path=b"/api/chat", generates=True),
    Kind(OLLAMA_GENERATE, "/ollama/api/generate", CAN_CHAT, upstream_path=b"/api/generate", generates=True),
    Kind(OLLAMA_EMBED, "/ollama/api/embeddings", CAN_EMBED, upstream_path=b"/api/embeddings"),  # the older path
    Kind(OLLAMA_EMBED, "/ollama/api/embed", CAN_EMBED, upstream_path=b"/api/embed"),
)
SHOW = Kind(OLLAMA_SHOW, "/ollama/api/show", CAN_CHAT, upstream_path=b"/api/show", needs_slot=False)
STORED_RESPONSES = Kind(STORED, "/v1/responses/", CAN_CHAT, needs_slot=False)

BY_PATH = {kind.path: kind for kind in KINDS}
BY_NAME = {kind.name: kind for kind in (*KINDS, STORED_RESPONSES, *OLLAMA_KINDS, SHOW)}
GENERATING = frozenset(kind.name for kind in BY_NAME.values() if kind.generates)
