import base64
import json
import os
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.redact import MAX_STORED_BYTES, redact
from tests.cpu_time import growth

MEDIA = base64.b64encode(os.urandom(300)).decode()


def stored(value):
    return json.loads(redact(json.dumps(value).encode()))


def test_text_is_unchanged():
    body = {"messages": [{"role": "user", "content": 'data: ünïcode, base64 and "quotes" stay'}]}
    assert stored(body) == body


def test_an_image_is_replaced_by_its_length():
    url = f"data:image/png;base64,{MEDIA}"
    redacted = stored({"image_url": {"url": url, "detail": "low"}})
    assert redacted == {"image_url": {"url": f"[redacted data-url len={len(url)}]", "detail": "low"}}


def test_each_of_several_images_is_replaced():
    urls = [f"data:image/{kind};base64,{MEDIA}" for kind in ("png", "jpeg")]
    assert MEDIA not in json.dumps(stored(urls))
    assert len(stored(urls)) == 2


def test_audio_is_replaced_by_its_length():
    redacted = stored({"input_audio": {"format": "wav", "data": MEDIA}, "data": "stays"})
    audio = {"format": "wav", "data": f"[redacted base64 len={len(MEDIA)}]"}
    assert redacted == {"input_audio": audio, "data": "stays"}


def test_a_long_body_is_cut_between_characters():
    text = redact("é".encode() * MAX_STORED_BYTES)
    assert text == "é" * (MAX_STORED_BYTES // 2) + "…"
    assert redact(b"x" + "é".encode() * MAX_STORED_BYTES) == "x" + "é" * (MAX_STORED_BYTES // 2 - 1) + "…"


def test_a_body_at_the_limit_is_not_cut():
    assert redact(b"x" * MAX_STORED_BYTES) == "x" * MAX_STORED_BYTES


def test_media_is_replaced_before_the_cut():
    big = "A" * (MAX_STORED_BYTES * 2)
    assert stored({"url": f"data:image/png;base64,{big}", "n": 1})["n"] == 1


@given(st.binary(max_size=200))
def test_any_bytes_become_text_that_can_be_stored(body):
    redact(body).encode()


def test_a_large_image_is_redacted_without_much_memory():
    body = b'{"url":"data:image/png;base64,' + b"A" * (8 << 20) + b'"}'
    tracemalloc.start()
    try:
        assert len(redact(body)) < 100
        assert tracemalloc.get_traced_memory()[1] < 4 * len(body)
    finally:
        tracemalloc.stop()


def test_text_that_begins_like_an_image_is_unchanged():
    assert stored({"a": "data:image/png;base64,AB\\nC"}) == {"a": "data:image/png;base64,AB\\nC"}


@pytest.mark.parametrize(
    "unit", [b"a", b'"', b'"data:', b'"data:;base64,', b'"data:image/png;base64,AA"', b'"input_audio":{"data":"']
)
def test_bytes_beyond_the_stored_part_are_not_scanned(unit):
    """Twenty times as many bytes take less than five times as long."""
    assert growth(redact, *(unit * (size // len(unit)) for size in (1 << 20, 20 << 20))) < 5
