"""Names of request kinds in llmlb, whose history has them."""

from gateway.base import request_kinds

# Names of request kinds in llmlb, which has nine and refuses rows with any other name.
REQUEST_TYPES = {
    request_kinds.CHAT: "Chat",
    request_kinds.COMPLETIONS: "Generate",
    request_kinds.EMBEDDINGS: "Embeddings",
    request_kinds.RESPONSES: "Chat",
    request_kinds.COMPACTIONS: "Chat",
    request_kinds.STORED: "Chat",
    request_kinds.MESSAGES: "AnthropicMessages",
    request_kinds.COUNT_TOKENS: "AnthropicMessages",
    request_kinds.TRANSCRIPTIONS: "Transcription",
    request_kinds.TRANSLATIONS: "Transcription",
    request_kinds.SPEECH: "Speech",
    request_kinds.IMAGES: "ImageGeneration",
    request_kinds.IMAGE_EDITS: "ImageEdit",
    request_kinds.IMAGE_VARIATIONS: "ImageVariation",
    request_kinds.RERANK: "Embeddings",
    request_kinds.MODERATIONS: "Chat",
    request_kinds.TOKENIZE: "Generate",
    request_kinds.OLLAMA_CHAT: "Chat",
    request_kinds.OLLAMA_GENERATE: "Generate",
    request_kinds.OLLAMA_EMBED: "Embeddings",
    request_kinds.OLLAMA_SHOW: "Chat",
}
# The reverse, for rows that llmlb wrote.
KINDS = {
    "Chat": request_kinds.CHAT,
    "Generate": request_kinds.COMPLETIONS,
    "Embeddings": request_kinds.EMBEDDINGS,
    "Transcription": request_kinds.TRANSCRIPTIONS,
    "Speech": request_kinds.SPEECH,
    "ImageGeneration": request_kinds.IMAGES,
    "ImageEdit": request_kinds.IMAGE_EDITS,
    "ImageVariation": request_kinds.IMAGE_VARIATIONS,
    "AnthropicMessages": request_kinds.MESSAGES,
}
