import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import surrogates
from gateway.dialects.surrogates import MAX_PARTS, read_body, replaced, replaced_slowly
from gateway.loop.time_slices import run_unsliced
from tests.cpu_time import longest_slice_ms

PIECES = [b"a", b"xyz" * 5, b"\\\\", b"\\n", b'\\"', b"\\u3042", b"\\ud83d\\ude00", b"\\ud800", b"\\udc00", b"\\uD83D"]


def expected(pieces):
    """Replace each unpaired surrogate by U+FFFD, by Python's own decoder."""
    text = json.loads(b'"%b"' % b"".join(pieces))
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@given(st.lists(st.sampled_from(PIECES)))
def test_only_unpaired_surrogates_are_replaced(pieces):
    text = json.loads(replaced(b'"%b"' % b"".join(pieces)))
    assert text == expected(pieces)


@given(st.lists(st.sampled_from(PIECES), max_size=60), st.integers(16, 40))
def test_in_slices_the_result_is_the_same(pieces, size):
    body = b'"%b"' % b"".join(pieces)
    before, surrogates.SLICE_BYTES = surrogates.SLICE_BYTES, size
    try:
        sliced = run_unsliced(replaced_slowly(body))
    finally:
        surrogates.SLICE_BYTES = before
    if sliced is not None:
        assert sliced == replaced(body)


@pytest.mark.parametrize("text", [b"\\ud83d\\ude00" * 500_000, b"x" * 3_000_000, b"\\u3042" * 500_000])
def test_an_unpaired_surrogate_in_a_big_body_is_replaced(text):
    body = b'["%b\\ud800%b"]' % (text, text)
    assert run_unsliced(replaced_slowly(body)) == body.replace(b"\\ud800", b"\\ufffd")


def test_too_many_surrogates_are_left_to_the_decoder():
    body = b'"%b"' % (b"\\ud800a" * (MAX_PARTS + 1))
    assert run_unsliced(replaced_slowly(body)) is None
    with pytest.raises(msgspec.DecodeError):
        read_body(msgspec.json.decode, body)


@pytest.mark.unmeasured
@pytest.mark.parametrize("unit", [b"\\ud800", b"\\\\", b"\\ud83d\\ude00", b"a\\n"])
def test_no_slice_takes_50_ms_of_cpu(unit):
    body = b'"%b\\ud800"' % (unit * ((4 << 20) // len(unit)))
    assert longest_slice_ms(replaced_slowly(body)) < 50
