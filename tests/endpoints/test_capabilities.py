from typing import Any

import pytest

from endpoints.capabilities import STORED, added, combined, features, guess, normalise, to_store


@pytest.mark.parametrize(
    "name",
    [
        "embed",
        "embedding-gemma",
        "embeddinggemma:300m",
        "nomic-embed-text",
        "org/text_embed_small",
        "Qwen/Qwen3-Embedding-0.6B",
        "a/b/embed",
        "text-embedding-3-small",
        "jinaai/jina-embeddings-v3",
        "Snowflake/snowflake-arctic-embed-l-v2.0",
        "mxbai-embed-large",
        "BAAI/bge-m3",
        "bge-large-en-v1.5",
        "Alibaba-NLP/gte-Qwen2-7B-instruct",
        "intfloat/multilingual-e5-large",
        "e5-mistral-7b-instruct",
        "all-minilm:l6-v2",
        "sentence-transformers/all-MiniLM-L6-v2",
    ],
)
def test_embedding_models_are_known_by_their_names(name: str) -> None:
    assert guess(name) == ("embeddings",)


@pytest.mark.parametrize(
    "name",
    ["BAAI/bge-reranker-v2-m3", "Qwen/Qwen3-Reranker-0.6B", "jina-reranker-v2", "rerank-v3.5", "ms-marco-MiniLM-L6-v2"],
)
def test_rerankers_are_not_embedding_models(name: str) -> None:
    assert guess(name) == ("rerank",)


@pytest.mark.parametrize(
    ("name", "can"),
    [
        ("openai/whisper-large-v3", "audio_transcription"),
        ("Systran/faster-whisper-small", "audio_transcription"),
        ("nvidia/parakeet-tdt-0.6b-v3", "audio_transcription"),
        ("gpt-4o-mini-transcribe", "audio_transcription"),
        ("Qwen3-ASR-1.7B", "audio_transcription"),
        ("tts-1-hd", "audio_speech"),
        ("gpt-4o-mini-tts", "audio_speech"),
        ("hexgrad/Kokoro-82M", "audio_speech"),
        ("piper-en_US", "audio_speech"),
        ("coqui/XTTS-v2", "audio_speech"),
        ("stabilityai/stable-diffusion-3.5-large", "image_generation"),
        ("sdxl-turbo", "image_generation"),
        ("black-forest-labs/FLUX.1-dev", "image_generation"),
        ("flux1-schnell", "image_generation"),
        ("dall-e-3", "image_generation"),
        ("gpt-image-1", "image_generation"),
        ("Qwen/Qwen-Image", "image_generation"),
        ("omni-moderation-latest", "moderation"),
    ],
)
def test_other_models_are_known_by_their_names(name: str, can: str) -> None:
    assert guess(name) == (can,)


@pytest.mark.parametrize(
    "name",
    [
        "tiny",
        "embedders/chat",
        "nomic-embed/chat",
        "whisper/chat",
        "reembed",
        "",
        "/",
        "smollm2-135m-instruct",
        "meta-llama/Llama-Guard-3-8B",
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "gpt-oss:20b",
        "influx-7b",
        "attsy",
        "日本語",
    ],
)
def test_all_other_models_chat(name: str) -> None:
    assert guess(name) == ("chat",)


def test_an_audio_chat_model_has_both_capabilities() -> None:
    assert guess("mistralai/Voxtral-Mini-3B-2507") == ("chat", "audio_transcription")


@pytest.mark.parametrize(
    ("names", "capabilities"),
    [
        (["chat_completion"], ("chat",)),
        (["completion", "vision", "tools"], ("chat",)),
        (["audio_speech", "chat", "chat"], ("chat", "audio_speech")),
        (["embedding"], ("embeddings",)),
        (["vlm"], ("chat",)),
        (["tools", "thinking"], ()),
        ([], ()),
        (None, ()),
        ("chat", ()),
        ({"chat": True}, ()),
        ([None, 7, ["chat"], {}], ()),
    ],
)
def test_names_of_servers_are_normalised(names: Any, capabilities: tuple[str, ...]) -> None:
    assert normalise(names) == capabilities


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["completion", "vision", "tools", "insert"], ("tools", "vision")),
        (["thinking", "completion"], ("thinking",)),
        (["tool_use"], ("tools",)),
        (["vlm", "trained_for_tool_use", "reasoning"], ("tools", "vision", "thinking")),
        ([], ()),
        ("tools", ()),
        ({"tools": True}, ()),
        ([None, 7, ["vision"]], ()),
    ],
)
def test_features_among_the_names_of_servers(names: Any, expected: tuple[str, ...]) -> None:
    assert features(names) == expected


def test_stored_names_survive_a_round_trip() -> None:
    assert to_store(normalise(STORED)) == list(STORED)


def test_names_are_stored_once_in_the_spelling_of_llmlb() -> None:
    assert to_store(["chat", "rerank", "chat_completion", "rerank"]) == ["chat_completion", "rerank"]


@pytest.mark.parametrize(
    ("names", "capabilities"),
    [
        (["chat_completion"], ()),
        ([], ()),
        (None, ()),
        (["embeddings"], ("embeddings",)),
        (["chat_completion", "embeddings"], ("chat", "embeddings")),
    ],
)
def test_the_default_adds_nothing(names: Any, capabilities: tuple[str, ...]) -> None:
    assert added(names) == capabilities


def test_capabilities_set_by_administrators_are_added() -> None:
    assert combined(("embeddings",), ("chat",)) == ("chat", "embeddings")


@pytest.mark.parametrize("known", [(), ("unheard of",)])
def test_an_unknown_model_stays_unknown(known: tuple[str, ...]) -> None:
    assert combined(known, ("embeddings",)) == ()
