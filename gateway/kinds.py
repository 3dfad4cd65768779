"""Kinds of requests: where each is sent, what a model must be able to do for it, and how it is counted."""

from dataclasses import dataclass, field

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = "chat_completions", "completions", "embeddings", "responses"
COMPACTIONS = "response_compactions"  # a conversation in fewer tokens
STORED = "stored_responses"  # looked up, cancelled, deleted
MESSAGES, COUNT_TOKENS = "messages", "count_tokens"  # Anthropic's
TRANSCRIPTIONS, TRANSLATIONS, SPEECH = "audio_transcriptions", "audio_translations", "audio_speech"
IMAGES, IMAGE_EDITS, IMAGE_VARIATIONS = "image_generations", "image_edits", "image_variations"
RERANK, MODERATIONS, TOKENIZE = "rerank", "moderations", "tokenize"

# Capabilities of models, the words of the endpoints' table where it has any.
CAN_CHAT, CAN_EMBED = "chat", "embeddings"
CAN_TRANSCRIBE, CAN_SPEAK, CAN_DRAW = "audio_transcription", "audio_speech", "image_generation"
CAN_RERANK, CAN_MODERATE = "rerank", "moderation"
CAPABILITIES = (CAN_CHAT, CAN_EMBED, CAN_TRANSCRIBE, CAN_SPEAK, CAN_DRAW, CAN_RERANK, CAN_MODERATE)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a path below /v1 takes."""

    name: str  # as records bear it
    path: str  # as clients and endpoints know it
    capability: str
    upstream_path: bytes = b""  # where the endpoint has it in another place
    query: frozenset[bytes] = frozenset()  # names of the query's parameters that endpoints get to see
    binary: bool = False  # answers with sound or pictures
    multipart: bool = False  # a form with files instead of JSON
    generates: bool = False  # text, whose tokens a second are a speed
    target: bytes = field(init=False)  # the path on the endpoint

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", self.upstream_path or self.path.encode())

    @property
    def asked_at(self) -> str:
        """The path on the endpoint."""
        return self.target.decode()


_BETA = frozenset((b"beta",))  # as Anthropic's clients ask for what is new

KINDS = (
    Kind(CHAT, "/v1/chat/completions", CAN_CHAT, generates=True),
    Kind(COMPLETIONS, "/v1/completions", CAN_CHAT, generates=True),
    Kind(EMBEDDINGS, "/v1/embeddings", CAN_EMBED),
    Kind(RESPONSES, "/v1/responses", CAN_CHAT, generates=True),
    Kind(COMPACTIONS, "/v1/responses/compact", CAN_CHAT),
    Kind(MESSAGES, "/v1/messages", CAN_CHAT, generates=True, query=_BETA),
    Kind(COUNT_TOKENS, "/v1/messages/count_tokens", CAN_CHAT, query=_BETA),
    Kind(TRANSCRIPTIONS, "/v1/audio/transcriptions", CAN_TRANSCRIBE, multipart=True),
    Kind(TRANSLATIONS, "/v1/audio/translations", CAN_TRANSCRIBE, multipart=True),
    Kind(SPEECH, "/v1/audio/speech", CAN_SPEAK, binary=True),
    Kind(IMAGES, "/v1/images/generations", CAN_DRAW),
    Kind(IMAGE_EDITS, "/v1/images/edits", CAN_DRAW, multipart=True),
    Kind(IMAGE_VARIATIONS, "/v1/images/variations", CAN_DRAW, multipart=True),
    Kind(RERANK, "/v1/rerank", CAN_RERANK),
    Kind(MODERATIONS, "/v1/moderations", CAN_MODERATE),
    Kind(TOKENIZE, "/v1/tokenize", CAN_CHAT, upstream_path=b"/tokenize"),
)
STORED_RESPONSES = Kind(STORED, "/v1/responses/", CAN_CHAT)

BY_PATH = {kind.path: kind for kind in KINDS}
BY_NAME = {kind.name: kind for kind in (*KINDS, STORED_RESPONSES)}
GENERATING = frozenset(kind.name for kind in KINDS if kind.generates)
