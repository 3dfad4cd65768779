import pytest

from gateway.base.errors import Refusal
from gateway.base.queue_class import BULK, CLASS_HEADER, INTERACTIVE, read_class


@pytest.mark.parametrize(
    ("header", "is_flex", "default", "expected"),
    [
        (None, False, INTERACTIVE, INTERACTIVE),
        (b"interactive", False, INTERACTIVE, INTERACTIVE),
        (b" Bulk ", False, INTERACTIVE, BULK),
        (None, True, INTERACTIVE, BULK),
        # Nothing raises the class.
        (b"interactive", True, INTERACTIVE, BULK),
        (b"interactive", False, BULK, BULK),
        (None, False, BULK, BULK),
    ],
)
def test_the_lowest_class_counts(header, is_flex, default, expected):
    headers = {} if header is None else {CLASS_HEADER: header}
    assert read_class(headers, is_flex=is_flex, default=default) == expected


@pytest.mark.parametrize("header", [b"", b"batch", b"bulk,bulk", b"\xff"])
def test_a_header_that_names_no_class_is_refused(header):
    with pytest.raises(Refusal, match="x-routerdash-class") as caught:
        read_class({CLASS_HEADER: header}, is_flex=True)
    assert caught.value.status == 400
