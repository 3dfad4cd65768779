"""Failures of an attempt."""

import pytest

from gateway.inference.attempt import Failure, pause_of


@pytest.mark.parametrize(
    ("status", "retry_after", "seconds"),
    [
        (429, b"7", 7.0),
        (503, b"0", 0.0),
        (500, b"7", None),
        (429, b"Wed, 21 Oct 2026 07:28:00 GMT", None),
        (429, b"-1", None),
        (429, b"9" * 10, None),
        (429, b"", None),
    ],
)
def test_the_pause_of_retry_after(status, retry_after, seconds):
    assert pause_of(Failure(status, b"", [(b"retry-after", retry_after)], None, "HTTP 429")) == seconds


def test_without_retry_after_there_is_no_pause():
    assert pause_of(Failure(503, b"", [], None, "HTTP 503")) is None
