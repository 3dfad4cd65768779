"""Records with impossible values are not counted."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from metrics.counting.plausibility import is_countable
from tests.metrics.records import request


@given(
    st.from_regex(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", fullmatch=True)
    | st.text(alphabet="0123456789abcdefABCDEFgx-\n \u0661\u00e9\ud800", max_size=37)
)
@example("00000000-0000-0000-0000-000000000000")
@example("00000000-0000-0000-0000-00000000000g")
@example("00000000-0000-0000-0000-00000000000A")
@example("00000000-0000-0000-0000-00000000000\u0661")
@example("00000000-0000-0000-0000-0000000000000")
@example("000000000000-0000-0000-0000-00000000")
@example("00000000-0000-0000-0000-000000000000\n")
def test_an_id_is_hyphenated_lower_case(text: str) -> None:
    right = re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text) is not None
    assert is_countable(request(id=text)) == right
