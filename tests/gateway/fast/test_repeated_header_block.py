"""The template of a header block: it matches any Content-Length, and nothing else."""

import pytest

from gateway.fast.repeated_header_block import MAX_DIGITS, HeaderBlockTemplate


def message(digits: str, line: bytes = b"x: y") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %b\r\n%b\r\n\r\nbody" % (digits.encode(), line)


def template(length: int) -> HeaderBlockTemplate:
    made = HeaderBlockTemplate.from_message(message(str(length)), length)
    assert made is not None
    return made


def test_the_number_of_digits_may_change_with_each_message() -> None:
    made = template(12)
    for digits in ("12", "9", "9", "0123456", "34", "1234567", "1", "99"):
        matched = made.match(message(digits))
        assert matched == (len(message(digits)) - len(b"body"), int(digits))


@pytest.mark.parametrize("digits", ["", "-1", "+1", "1_0", " 1", "1 ", "1a", "٣", "1" * (MAX_DIGITS + 1)])
def test_what_is_no_short_number_is_left_to_the_parser(digits: str) -> None:
    for length in (1, 12, 123456789):
        assert template(length).match(message(digits)) is None


def test_another_header_block_does_not_match() -> None:
    made = template(12)
    for data in (message("12", b"x: z"), message("12")[:-5], message("12")[1:], b"", message("12").upper()):
        assert made.match(data) is None
