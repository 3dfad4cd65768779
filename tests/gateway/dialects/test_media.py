"""Images and audio of a response, which some prices count."""

import json
from typing import Any

import pytest

from gateway.base.request_kinds import CHAT, IMAGE_EDITS, IMAGES, SPEECH, TRANSCRIPTIONS, TRANSLATIONS
from gateway.dialects import media
from gateway.dialects.media import with_media
from gateway.dialects.openai_events import dialect, read_typed_event
from gateway.dialects.sse_relay import StreamRelay
from gateway.dialects.usage import Usage

TOKENS = Usage(10, 5)


def read(kind: str, usage: Usage | None = None, /, **body: Any) -> Usage | None:
    return with_media(usage, kind, json.dumps(body).encode())


def audio(milliseconds: int) -> Usage:
    return Usage(None, None, audio_ms=milliseconds)


@pytest.mark.parametrize("kind", [IMAGES, IMAGE_EDITS])
def test_images_are_those_of_the_response(kind: str) -> None:
    assert read(kind, data=[{"b64_json": "aGk="}, {"url": "http://x/y", "revised_prompt": '"data":[{}]'}]) == Usage(
        None, None, images=2
    )
    assert read(kind, TOKENS, created=1, data=[{}]) == Usage(10, 5, images=1)
    assert read(kind, data=[]) == Usage(None, None, images=0)


@pytest.mark.parametrize("kind", [TRANSCRIPTIONS, TRANSLATIONS])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"usage": {"type": "duration", "seconds": 9}, "duration": 8.47}, audio(9000)),
        ({"duration": 8.4705}, audio(8470)),
        ({"duration": "8.4"}, audio(8400)),
        ({"duration": 0}, audio(0)),
        ({"duration": "long"}, None),
        ({"duration": -1}, None),
        ({"duration": 1e300}, None),
        ({"duration": "nan"}, None),
        ({"duration": True}, None),
        ({"usage": {"seconds": [1]}}, None),
        ({"text": "Hello."}, None),
    ],
)
def test_the_duration_of_audio_is_what_the_server_reports(kind: str, body: dict[str, Any], expected: object) -> None:
    assert read(kind, **body) == expected


def test_tokens_of_a_transcript_stay() -> None:
    assert read(TRANSCRIPTIONS, TOKENS, duration=1) == Usage(10, 5, audio_ms=1000)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"data":null}', b'{"data":[1]}', b'{"data":{}}', b'"\xff"'])
def test_a_body_that_cannot_be_read_changes_nothing(body: bytes) -> None:
    for kind in (IMAGES, TRANSCRIPTIONS):
        assert with_media(TOKENS, kind, body) == TOKENS


def test_other_kinds_have_neither() -> None:
    assert read(CHAT, TOKENS, data=[{}], duration=1) == TOKENS
    assert read(SPEECH, data=[{}], duration=1) is None


def test_a_body_that_would_take_too_long_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "MAX_BYTES", 10)
    assert read(IMAGES, data=[{"b64_json": "aGk="}]) is None


def relayed(kind: str, *events: dict[str, Any]) -> Usage | None:
    relay = StreamRelay(dialect(kind), "m", hide_usage=False)
    for event in events:
        relay.feed(b"data: %b\n\n" % json.dumps(event).encode())
    relay.end()
    return relay.usage


def test_a_stream_has_an_image_for_each_last_event() -> None:
    partial = {"type": "image_generation.partial_image", "b64_json": "aGk="}
    done = {"type": "image_generation.completed", "b64_json": "aGk="}
    counts = {"usage": {"input_tokens": 10, "output_tokens": 5}}
    assert relayed(IMAGES, partial) is None
    assert relayed(IMAGES, partial, done | counts) == Usage(10, 5, images=1)
    assert relayed(IMAGES, done, done | counts) == Usage(10, 5, images=2)
    assert relayed(IMAGE_EDITS, {"type": "image_edit.completed"}) == Usage(None, None, images=1)


def test_a_stream_of_a_transcript_reports_its_duration() -> None:
    done = {"type": "transcript.text.done", "text": "Hi", "usage": {"type": "duration", "seconds": 3}}
    assert relayed(TRANSCRIPTIONS, {"type": "transcript.text.delta", "delta": "Hi"}, done) == audio(3000)
    assert read_typed_event(json.dumps({"type": "speech.audio.done"}).encode()).usage is None


def test_later_reports_keep_earlier_ones() -> None:
    assert TOKENS.merged_with(audio(1000)) == Usage(10, 5, audio_ms=1000)
    assert TOKENS.merged_with(Usage(None, None, images=1)) == Usage(10, 5, images=1)
    assert audio(7).merged_with(TOKENS) == Usage(10, 5, audio_ms=7)
